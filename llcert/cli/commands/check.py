"""`llcert check`: checks a certificate folder by the independent checker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llcert.errors import InvalidInput

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder with certificate.json, as llcert certify --proof writes it.")
]


def check(folder: Folder) -> None:
    """Whether every certificate in a folder holds, by an independent checker (numpy, scipy), every rounding paid for.

    The last line states what is accepted: the claim, eps, the semantics, and a range of pixels it is restricted to.
    Rejected images are named on stderr, each with the first step that is not proved.
    """
    from llcert.checker import InvalidCertificate, open_certificate, results
    from llcert.cli.terminal import stderr, work_progress

    accepted, rejected = 0, list[str]()
    try:
        certificate = open_certificate(folder)
        with work_progress(stderr(), "checking", len(certificate.images)) as bar:
            for result in results(certificate):
                bar.advance(1)
                accepted += result.accepted
                if not result.accepted:
                    rejected.append(result.reason)
    except InvalidCertificate as error:
        raise InvalidInput(str(error)) from None
    for reason in rejected:
        typer.echo(f"rejected: {reason}", err=True)
    claim = f": {certificate.in_words}" if accepted else ""
    nothing = "" if certificate.images else ": the certificate is of no image, nothing is proved"
    typer.echo(f"accepted {accepted} of {len(certificate.images)}{claim}{nothing}")
    raise typer.Exit(0 if accepted and not rejected else 1)
