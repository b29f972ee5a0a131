"""`llcert plot`: pictures of training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llcert.options.certification import OUTPUT
from llcert.options.text import parse_list

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN", help="Folders of training runs; each holds a metrics.jsonl.")
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for the pictures. Default: the first RUN.", rich_help_panel=OUTPUT),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Comma list of names for the legend, one a run. Default: the folders' names.",
        rich_help_panel=OUTPUT,
    ),
]


def plot(runs: Runs, out: Out = None, labels: Labels = None) -> None:
    """Pictures of training runs, each as PNG and SVG, after Figures 2 to 4 of the paper; several runs are compared.

    figure2: bounds, losses and accuracies by epoch; figure3: varying neurons, figure4: power iterations, by layer.
    """
    from llcert_train.plot import draw
    from llcert_train.plot_runs import read_runs

    drawn = draw(read_runs(runs, None if labels is None else parse_list(labels)), runs[0] if out is None else out)
    for note in drawn.notes:
        typer.echo(f"note: {note}", err=True)
    for path in drawn.files:
        typer.echo(path)
