"""`llcert check`: checks a certificate folder by the independent checker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder with certificate.json, as llcert certify --proof writes it.")
]


def check(folder: Folder) -> None:
    """Whether every certificate in a folder holds, by a small independent checker: numpy, every rounding paid for.

    The last line states what is accepted: the claim, eps, the semantics, and a range of pixels it is restricted to.
    Rejected images are named on stderr, each with the first step that is not proved.
    """
    from llcert.checker import open_certificate, results
    from llcert.cli.terminal import stderr, work_progress

    certificate = open_certificate(folder)
    accepted, rejected = 0, list[str]()
    with work_progress(stderr(), "checking", len(certificate.images)) as bar:
        for result in results(certificate):
            bar.advance(1)
            accepted += result.accepted
            if not result.accepted:
                rejected.append(result.reason)
    for reason in rejected:
        typer.echo(f"rejected: {reason}", err=True)
    claim = f": {certificate.in_words}" if accepted else ""
    nothing = "" if certificate.images else ": the certificate is of no image, nothing is proved"
    typer.echo(f"accepted {accepted} of {len(certificate.images)}{claim}{nothing}")
    raise typer.Exit(0 if accepted and not rejected else 1)
