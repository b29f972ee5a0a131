"""`llcert certify`: all options of a certification, and where its results go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llcert.cli import arguments as a
from llcert.cli.declared import of_certification, with_options
from llcert.options import Options
from llcert.options.certification import DECLARED, OUTPUT

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for summary.json and samples.jsonl, written as images are decided.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that lies in --out.", rich_help_panel=OUTPUT)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what lies in --out and --proof.", rich_help_panel=OUTPUT)
]
Proof = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for a certificate of every certified image that [bold]llcert check[/] checks on its own.",
        rich_help_panel=OUTPUT,
    ),
]
Tsv = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="One line an image: idx label predict radius correct time, as in randomised smoothing.",
        rich_help_panel=OUTPUT,
    ),
]
FailUnder = Annotated[
    float | None,
    typer.Option(
        metavar="PCT", help="Exit code 1 where certified accuracy is below so many percent.", rich_help_panel=OUTPUT
    ),
]


def certify(
    context: typer.Context,
    model: a.Model,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    proof: Proof = None,
    json: a.Json = None,
    tsv: Tsv = None,
    fail_under: FailUnder = None,
    **given: Any,
) -> None:
    """How many images of a data set keep their class under [bold]every[/] change of L2 length up to eps.

    Stages run in turn and see what is still open: clean prediction, global bound, local bound,
    attack, backward pass, backward pass with intermediate bounds, attack towards every open class;
    if asked for, branch and bound.
    """
    options = Options.given(**given)
    from llcert.cli import certification
    from llcert.runs.start import Folders, take_part

    folders = Folders(out, proof, resume=resume, overwrite=overwrite)
    outputs = certification.Outputs(json=json, tsv=tsv, fail_under=fail_under)
    group = context.obj
    if group is not None and not group.leads:
        take_part(Path(model), group, folder=out or Path())
    else:
        raise typer.Exit(certification.certify(model, options, folders, outputs, group=group))


certify = with_options(certify, of_certification(*DECLARED))
