"""`llcert finetune` and `llcert train`: the options of a task and of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llcert.cli import arguments as a
from llcert.cli.declared import Offered, of_certification, offered, with_options
from llcert.options import STAGES, Options
from llcert.options.certification import ASKED, OUTPUT
from llcert_train.settings import GROUPS, Recipe, kind_of, shown_fields

if TYPE_CHECKING:
    from llcert_train.task import Task

RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="A recipe that comes with llcert, or a TOML file; options win over it.",
        rich_help_panel=ASKED,
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Test images, where --data is a path; without them, a fifth of --data is kept for testing.",
        rich_help_panel=ASKED,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for model.onnx, its card, metrics.jsonl and the checkpoint. "
        "Default: runs/finetune-NAME, runs/train-NAME.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that lies in --out.", rich_help_panel=OUTPUT)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that lies in --out.", rich_help_panel=OUTPUT)
]
Arch = Annotated[
    str | None,
    typer.Argument(
        metavar="[ARCH]",
        help="A network of the zoo: 2C2F, 4C3F, 6C2F, 6C2F-light, 7C1F, 8C2F, 8C2F-light, mlp, tiny-conv, small-conv, "
        "residual-bn. "
        "Default: the recipe's.",
    ),
]


def finetune(
    model: a.Model,
    recipe: RecipeName = None,
    test_data: TestData = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    **given: Any,
) -> None:
    """Makes a trained network certifiable: MaxMin in place of ReLU, then training on its own Lipschitz bounds.

    What comes out is an ONNX file with the names, the input and the normalisation of the one that went in.
    """
    from llcert.cli.training import Request, run

    task, fields = _asked(Path(model), test_data, given, _FINETUNE)
    folder = out or Path("runs", f"finetune-{Path(model).name.split('.')[0]}")
    raise typer.Exit(run(Request(task, recipe, fields, folder, resume=resume, overwrite=overwrite)))


def train(
    arch: Arch = None,
    recipe: RecipeName = None,
    test_data: TestData = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    **given: Any,
) -> None:
    """Trains a new network to be certifiable, by the same loop; alone or under torchrun on several GPUs.

    The defaults below are those of fields that the recipe leaves out.
    """
    from llcert.cli.training import Request, run

    task, fields = _asked(None, test_data, given, _TRAIN)
    folder = out or Path("runs", f"train-{(recipe and Path(recipe).stem) or arch}")
    fields = {**fields, "arch": arch}
    raise typer.Exit(run(Request(task, recipe, fields, folder, resume=resume, overwrite=overwrite)))


_TRAIN = ("data_root", "device", "samples", "stages", "assurance")
_FINETUNE = ("mean", "std", "layout", *_TRAIN)
"""The options of a certification that the commands take."""


def _asked(
    model: Path | None, test_data: str | None, given: dict[str, Any], names: tuple[str, ...]
) -> tuple[Task, dict[str, Any]]:
    """The task, and the fields of a recipe, from the options given. names: of those of a certification among them."""
    from llcert_train.task import Task

    options = Options.given(**{name: given[name] for name in names})
    task = Task(model, test_data=test_data, **{name: getattr(options, name) for name in names})
    return task, {name: value for name, value in given.items() if name not in names}


def _of_recipe(*without: str, recipe: str | None = None) -> Iterator[Offered]:
    """The options of a recipe's fields, without some. recipe: the command's own, whose values are the defaults."""
    values, group = shown_fields(recipe), ""
    for f in dataclasses.fields(Recipe):
        group = GROUPS.get(f.name, group)
        if f.name not in without:
            shown = {"shown": values[f.name]} if f.name in values else {}
            yield offered(f, kind_of(f), panel=group, **shown)


def _of_certification(*names: str) -> list[Offered]:
    end = "Of the certification at the end:"
    return of_certification(
        *names,
        samples={"help": f"{end} the first N test images, or images A to B-1."},
        stages={"help": f"{end} comma list of {', '.join(STAGES)}."},
        assurance={"help": f"{end} estimate, probabilistic or deterministic."},
    )


finetune = with_options(
    finetune,
    [
        *_of_certification(*_FINETUNE),
        *_of_recipe("arch", "threshold", "initial", "centre", "orthogonal", recipe="finetune"),
    ],
)
train = with_options(train, [*_of_certification(*_TRAIN), *_of_recipe("arch", "quantile", "per", "batch_norm")])
