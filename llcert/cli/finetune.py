"""`llcert finetune` and `llcert train`: options into a task and a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llcert.cli import options as o
from llcert.cli.recipe_options import with_recipe
from llcert.question import parse_list, parse_numbers

Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="A recipe that comes with llcert, or a TOML file; options win over it.",
        rich_help_panel=o.QUESTION,
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Test images, where --data is a path; without them, a fifth of --data is kept for testing.",
        rich_help_panel=o.QUESTION,
    ),
]
Stages = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Of the certification at the end: comma list of global, attack, local, dual, boxes, branch. "
        "Default: all but branch.",
        rich_help_panel=o.QUESTION,
    ),
]
Assurance = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Of the certification at the end: estimate, probabilistic or deterministic. Default: deterministic.",
        rich_help_panel=o.QUESTION,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for model.onnx, its card, metrics.jsonl and the checkpoint. Default: runs/NAME.",
        rich_help_panel=o.OUTPUT,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that lies in --out.", rich_help_panel=o.OUTPUT)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that lies in --out.", rich_help_panel=o.OUTPUT)
]
Arch = Annotated[
    str | None,
    typer.Argument(
        metavar="[ARCH]",
        help="A network of the zoo: 4C3F, 6C2F, 6C2F-light, 7C1F, 8C2F, 8C2F-light, mlp, tiny-conv, small-conv, "
        "residual-bn. "
        "Default: the recipe's.",
    ),
]


def finetune(
    model: o.Model,
    recipe: Recipe = None,
    test_data: TestData = None,
    data_root: o.DataRoot = None,
    mean: o.Mean = None,
    std: o.Std = None,
    layout: o.Layout = None,
    device: o.Device = None,
    stages: Stages = None,
    assurance: Assurance = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    **fields: Any,
) -> None:
    """Makes a trained network certifiable: MaxMin in place of ReLU, then training on its own Lipschitz bounds.

    What comes out is an ONNX file with the names, the input and the normalisation of the one that went in.
    """
    from llcert.cli.training import Request, run
    from llcert_train.job import Task

    task = Task(
        Path(model),
        test_data=test_data,
        data_root=None if data_root is None else str(data_root),
        mean=None if mean is None else parse_numbers(mean, "--mean"),
        std=None if std is None else parse_numbers(std, "--std"),
        layout=layout,
        device=device,
        stages=None if stages is None else parse_list(stages),
        assurance=assurance,
    )
    folder = out or Path("runs", f"finetune-{Path(model).name.split('.')[0]}")
    raise typer.Exit(run(Request(task, recipe, fields, folder, resume=resume, overwrite=overwrite)))


def train(
    arch: Arch = None,
    recipe: Recipe = None,
    test_data: TestData = None,
    data_root: o.DataRoot = None,
    device: o.Device = None,
    stages: Stages = None,
    assurance: Assurance = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    **fields: Any,
) -> None:
    """Trains a new network to be certifiable, by the same loop; alone or under torchrun on several GPUs."""
    from llcert.cli.training import Request, run
    from llcert_train.job import Task

    task = Task(
        None,
        test_data=test_data,
        data_root=None if data_root is None else str(data_root),
        device=device,
        stages=None if stages is None else parse_list(stages),
        assurance=assurance,
    )
    folder = out or Path("runs", f"train-{(recipe and Path(recipe).stem) or arch}")
    fields = {**fields, "arch": arch}
    raise typer.Exit(run(Request(task, recipe, fields, folder, resume=resume, overwrite=overwrite)))


finetune = with_recipe(finetune, without=("arch", "threshold", "initial", "centre", "orthogonal"))
train = with_recipe(train, without=("arch", "quantile", "per", "batch_norm"))
