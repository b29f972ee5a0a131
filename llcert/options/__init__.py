"""What a user may ask: every option is declared once, and becomes from there an argument of the command line and of the
Python API, a key of JSON files, and a check. Cheap to import: nothing here imports torch or numpy."""

from llcert.options.certification import Options, check, default
from llcert.options.stages import RUNNING, STAGES, stage_name, with_stage_names

__all__ = ["RUNNING", "STAGES", "Options", "check", "default", "stage_name", "with_stage_names"]
