"""Runs: options are resolved (`resolve`), a certification prepared (`certification`), and its batches certified by one
process or several (`run`, `work_queue`), every result on disk at once, so that a run that is killed can be resumed."""
