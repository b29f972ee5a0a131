"""The commands of the command line, as typer knows them."""

from __future__ import annotations

from typing import Any

import typer

from llcert.cli.app import app


def parameters(command: str) -> dict[str, Any]:
    """The options and arguments of a command by field name."""
    found = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {str(p.name): p for p in found}
