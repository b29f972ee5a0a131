"""The options of a certification: each is declared once, which makes it an argument of the command line and of the
Python API, a key of JSON files, and a check. Nothing here imports torch or numpy, so that `--help` is fast."""

from llcert.options.certification import Options, check, default
from llcert.options.stages import RUNNING, STAGES, stage_name, with_stage_names

__all__ = ["RUNNING", "STAGES", "Options", "check", "default", "stage_name", "with_stage_names"]
