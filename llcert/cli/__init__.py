"""The command line: `commands/` reads options, the files beside it call `llcert.runs` or the API and print."""

from llcert.cli.app import main

__all__ = ["main"]
