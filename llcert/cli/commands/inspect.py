"""`llcert inspect`: shows a model file as llcert reads it."""

from __future__ import annotations

from typing import Annotated

import typer

from llcert.cli import arguments as a

CrossCheck = Annotated[
    bool, typer.Option("--cross-check", help="Compare with onnx2torch too, a second and independent importer.")
]


def inspect(model: a.Model, cross_check: CrossCheck = False) -> None:
    """What a model file holds: layers, shapes, parameters, global norms, what was recognised, what is refused."""
    from llcert.cli.inspection import show

    show(model, cross_check=cross_check)
