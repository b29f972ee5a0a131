"""`llcert attack`: accuracy under attack, an upper bound of certified accuracy."""

from __future__ import annotations

from typing import Any

import typer

from llcert.cli import arguments as a
from llcert.cli.declared import of_certification, with_options
from llcert.options import Options
from llcert.options.certification import ASKED


def attack(model: a.Model, json: a.Json = None, **given: Any) -> None:
    """Clean accuracy, and accuracy under an attack by projected gradient descent (PGD) in the L2 ball.

    No network can be certified better than it withstands this attack.
    """
    options = Options.given(**given, stages=("attack",), self_check=False)
    from llcert.cli.certification import Outputs, certify

    raise typer.Exit(certify(model, options, outputs=Outputs(json=json)))


_OPTIONS = (
    *("eps", "eps_file", "target", "top", "data", "data_root", "split", "samples", "mean", "std", "layout", "attack"),
    *("clip_input", "pixel_range", "steps", "restarts", "patience", "device", "dtype", "batch_size", "seed"),
)

attack = with_options(
    attack,
    of_certification(
        *_OPTIONS,
        steps={"flag": "--steps", "panel": ASKED},
        restarts={"flag": "--restarts", "panel": ASKED},
        patience={"flag": "--patience", "panel": ASKED},
    ),
)
