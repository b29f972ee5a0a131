"""Arguments that several commands take besides the options of a certification."""

from __future__ import annotations

from typing import Annotated

import typer

from llcert.options.certification import OUTPUT

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="An [bold].onnx[/] file, or a [bold].pt2[/] saved by torch.export.")
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="The summary as JSON; - prints it alone.", rich_help_panel=OUTPUT),
]
