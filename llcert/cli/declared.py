"""Options of commands from the declarations of dataclass fields (`llcert.options.declaration`)."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from llcert.options.certification import DECLARED, PANELS
from llcert.options.declaration import Declaration, declaration_of, json_value, kind_of

Command = Callable[..., None]
_METAVARS: Mapping[type, str] = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Offered:
    """An option that a command offers. name: of its argument. kind: the type of its values. option: typer's object."""

    name: str
    kind: type[Any]
    option: Any

    @property
    def parameter(self) -> inspect.Parameter:
        """The parameter of the command's function, None by default."""
        given: Any = self.kind | None
        annotation = Annotated[given, self.option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def of_certification(*names: str, **changed: Mapping[str, Any]) -> list[Offered]:
    """Options of a certification, by name. changed: for some of them, attributes that differ in this command."""
    fields = [DECLARED[name] for name in names]
    return [offered(f, kind_of(f), **changed.get(f.name, {})) for f in fields]


def offered(f: dataclasses.Field[Any], kind: type[Any], **changed: Any) -> Offered:
    """The option that a field declares. kind: of its values. changed: attributes that differ in this command."""
    d = dataclasses.replace(declaration_of(f), **changed)
    name = f.name.replace("_", "-")
    flag = d.flag or (f"--{name}/--no-{name}" if kind is bool else f"--{name}")
    if flag.startswith("--no-"):
        flag = f" /{flag}"  # it has no other name by which it is turned on
    default = _default_in_words(d, kind)
    text = f"{d.help} Default: {default}." if default else d.help
    typed = str if d.read is not None or issubclass(kind, enum.Enum) else kind
    metavar = None if kind is bool else d.metavar or _METAVARS.get(kind, "NAME")
    return Offered(f.name, typed, typer.Option(flag, metavar=metavar, help=text, rich_help_panel=d.panel))


def _default_in_words(d: Declaration, kind: type[Any]) -> str:
    """The default as help shows it; empty for none."""
    if d.shown is not None or d.default is None:
        return d.shown or ""
    return str(d.default).lower() if kind is bool else str(json_value(d.default))


def with_options(command: Command, options: Sequence[Offered]) -> Command:
    """The command with these options in place of its `**given`, which then holds their values by name, None for options
    that were not given. Its help has the panels in the order of `PANELS`, others behind them."""
    signature = inspect.signature(command, eval_str=True)
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = sorted([*own, *(o.parameter for o in options)], key=_place)
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _place(parameter: inspect.Parameter) -> int:
    """The position of a parameter in the command's help, by its panel."""
    panel = next((m.rich_help_panel for m in getattr(parameter.annotation, "__metadata__", ())), None)
    return -1 if panel is None else PANELS.index(panel) if panel in PANELS else len(PANELS)
