"""Runs: from the options of a user to results on disk, by one process or several (docs/decisions/runs.md).

| step | module |
|---|---|
| folders are opened, the model and its data loaded | `start` |
| options become settings; radii are read, images chosen | `resolve`, `radii_file`, `selection` |
| a certifier is made, with what its reports say | `prepare` |
| batches are certified, each result on disk before the next one | `run`, `run_directory`, `records` |
| a run that was killed goes on: what it must agree with | `identity` |
| several processes share the batches | `work_queue`, `pending_batches` |
| `--proof`; an image that is certified and broken at once | `certificate`, `contradiction` |
"""
