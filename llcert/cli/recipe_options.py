"""Every field of a recipe as a command line option. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from llcert_train.settings import GROUPS, Recipe, kind_of

_METAVARS: dict[type[Any], str] = {int: "N", float: "X", str: "TEXT"}


def with_recipe(command: Callable[..., None], *, without: tuple[str, ...] = ()) -> Callable[..., None]:
    """The command with an option for each field of a recipe, in place of its `**fields`; None where it was not given.

    without: fields that the command has an argument or option of its own for.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    group, added = "", []
    for f in dataclasses.fields(Recipe):
        group = GROUPS.get(f.name, group)
        if f.name not in without:
            added.append(_parameter(f, group))
    command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return command


def _parameter(f: dataclasses.Field[Any], group: str) -> inspect.Parameter:
    kind: Any = kind_of(f)
    given = (str if issubclass(kind, enum.Enum) else kind) | None
    annotation = Annotated[given, _option(f, group)]  # type: ignore[valid-type]
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(f: dataclasses.Field[Any], group: str) -> Any:
    name, kind = f.name.replace("_", "-"), kind_of(f)
    default = f.default.value if isinstance(f.default, enum.Enum) else f.default
    told = "" if default in (None, "") else f" Default: {str(default).lower() if kind is bool else default}."
    names = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
    metavar = None if kind is bool else _METAVARS.get(kind, "NAME")
    return typer.Option(names, metavar=metavar, help=f.metadata["help"] + told, rich_help_panel=group)
