"""`llcert attack`: an upper bound on what can be certified."""

from __future__ import annotations

from typing import Annotated

import typer

from llcert.cli import options as o
from llcert.question import Question, parse_batch_size, parse_numbers

Steps = Annotated[
    int | None, typer.Option(metavar="N", help="PGD steps of eps/4. Default: 100.", rich_help_panel=o.QUESTION)
]
Restarts = Annotated[
    int | None,
    typer.Option(metavar="N", help="Random starting points of PGD. Default: 1.", rich_help_panel=o.QUESTION),
]
Patience = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Steps without progress after which PGD gives an image up; 0: never. Default: 15.",
        rich_help_panel=o.QUESTION,
    ),
]


def attack(
    model: o.Model,
    eps: o.Eps = None,
    eps_file: o.EpsFile = None,
    target: o.Target = None,
    top: o.Top = None,
    data: o.Data = None,
    data_root: o.DataRoot = None,
    split: o.Split = None,
    samples: o.Samples = None,
    mean: o.Mean = None,
    std: o.Std = None,
    layout: o.Layout = None,
    attack: o.Attack = None,
    clip_input: o.ClipInput = None,
    pixel_range: o.PixelRange = None,
    steps: Steps = None,
    restarts: Restarts = None,
    patience: Patience = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    seed: o.Seed = None,
    json: o.Json = None,
) -> None:
    """Clean accuracy, and accuracy under an attack by projected gradient descent (PGD) in the L2 ball.

    No network can be certified better than it withstands this attack.
    """
    question = Question(
        eps=eps,
        eps_file=eps_file,
        target=target,
        top=top,
        data=data,
        data_root=None if data_root is None else str(data_root),
        split=split,
        samples=samples,
        stages=("attack",),
        device=device,
        dtype=dtype,
        batch_size=None if batch_size is None else parse_batch_size(batch_size),
        seed=seed,
        mean=None if mean is None else parse_numbers(mean, "--mean"),
        std=None if std is None else parse_numbers(std, "--std"),
        layout=layout,
        attack=attack,
        clip_input=clip_input,
        pixel_range=pixel_range,
        steps=steps,
        restarts=restarts,
        patience=patience,
    )
    from llcert.cli.running import Outputs, run

    raise typer.Exit(run(model, question, Outputs(json=json), self_check=False))
