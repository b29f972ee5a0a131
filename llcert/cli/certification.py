"""`llcert certify` and `llcert attack` behind their options: runs a certification, prints progress and report, writes
files for other programs, and says the exit code."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llcert.cli.terminal import DownloadProgress, stderr, stdout, work_progress
from llcert.data import Dataset
from llcert.errors import InvalidInput
from llcert.machine.files import dump, write_atomically
from llcert.machine.process_group import ProcessGroup
from llcert.options import Options
from llcert.reporting import Report
from llcert.reporting.diagnosis import percent
from llcert.reporting.tsv import tsv_lines
from llcert.runs.start import NOWHERE, Folders, open_run

_MISSED, _INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Outputs:
    """Where the report goes besides the terminal. Raises InvalidInput for a file that cannot be written.

    json: a file, or `-` for stdout in place of the report. tsv: a file. fail_under: percent of certified accuracy below
    which the exit code is 1. again: the command that goes on with an interrupted run, where it is not this one with
    --resume.
    """

    json: str | None = None
    tsv: Path | None = None
    fail_under: float | None = None
    again: str = ""

    def __post_init__(self) -> None:
        if self.fail_under is not None and not 0 <= self.fail_under <= 100:
            raise InvalidInput(f"--fail-under {self.fail_under}: give a percentage from 0 to 100")
        for name, path in (("--json", Path(self.json) if self.json not in (None, "-") else None), ("--tsv", self.tsv)):
            if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
                raise InvalidInput(f"{name} {path}: not a file that can be written; its folder must exist")


def certify(
    model: str,
    options: Options,
    folders: Folders = NOWHERE,
    outputs: Outputs | None = None,
    *,
    dataset: Dataset | None = None,
    group: ProcessGroup | None = None,
) -> int:
    """Certifies a model file; the exit code. Raises LlcertError for everything that cannot be done.

    dataset: in place of the one the options name. group: the processes that share the work, led by this one.
    """
    group, outputs, finished = group or ProcessGroup(), outputs or Outputs(), False
    if stderr().is_terminal:
        stderr().print("reading model and data, computing the global bound ...", style="dim")
    progress = DownloadProgress(stderr())
    with (
        open_run(Path(model), options, folders, group=group, dataset=dataset, progress=progress) as run,
        suppress(KeyboardInterrupt),
        work_progress(stderr(), "images", total=run.images) as bar,
    ):
        for result in run.results():
            bar.advance(len(result.samples))
        finished = True
    run.write_summary()
    if not finished:
        _, code = group.stop(_INTERRUPTED)
        return _interrupted(run.report, model, folders, outputs) if code == _INTERRUPTED else code
    code = _deliver(run.report, outputs)
    group.await_members()
    return code


def _deliver(report: Report, outputs: Outputs) -> int:
    """Prints the report and writes what else was asked for; the exit code."""
    if outputs.tsv is not None:
        write_atomically(outputs.tsv, "".join(tsv_lines(report)))
    if outputs.json == "-":
        stdout().file.write(dump(report.to_json(), indent=2))
    else:
        if outputs.json is not None:
            write_atomically(Path(outputs.json), dump(report.to_json(), indent=2))
        stdout().print(report)
    certified = report.certified_accuracy
    if outputs.fail_under is not None and not (certified is not None and 100 * certified >= outputs.fail_under):
        message = f"certified accuracy {percent(certified)} is below --fail-under {outputs.fail_under:g}"
        stderr().print(message, soft_wrap=True)
        return _MISSED
    return 0


def _interrupted(report: Report, model: str, folders: Folders, outputs: Outputs) -> int:
    """Prints how to go on with an interrupted run; the exit code."""
    done = f"interrupted after {len(report.samples)} of {report.subject.asked} images"
    if folders.out is None:
        message = f"{done}; nothing was kept (with --out DIR a run can be resumed)"
    else:
        command = outputs.again or shlex.join(["llcert", "certify", model, "--out", str(folders.out), "--resume"])
        message = f"{done}; go on with: {command}"
    stderr().print(message, soft_wrap=True, markup=False)
    return _INTERRUPTED
