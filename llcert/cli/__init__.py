"""The command line."""

from llcert.cli.app import main

__all__ = ["main"]
