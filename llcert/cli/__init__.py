"""The command line: reads options, runs a job, prints."""

from llcert.cli.app import main

__all__ = ["main"]
