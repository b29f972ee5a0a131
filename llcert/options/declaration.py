"""Declarations of options as fields of dataclasses, and the checks that follow from them.

`llcert.options.Options` and the recipes of `llcert_train` are declared this way; `llcert.cli.declared` makes options of
the command line from it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from llcert.errors import InvalidInput

Read = Callable[[Any, str], Any]
"""Converts a text or a Python value to the type of the field; its second argument is the option's name in messages."""

_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
}


@dataclass(frozen=True)
class Declaration:
    """The declaration of an option: everything but its name and type.

    help: one sentence or more, without the default. default: what counts where nothing is given; shown: the default in
    words, where its value does not say it. flag: on the command line, by default the field's name with dashes; one that
    begins with `--no-` turns a truth value off. metavar, panel: of the command's help.
    least, most: range of a number; above, below: whether its lower and its upper end are excluded. choices: of a text.
    read: see `Read`. identity: the key under which it enters the identity of a run, which a run that is continued must
    agree with; None where it does not change results.
    """

    help: str
    default: Any = None
    shown: str | None = None
    flag: str | None = None
    metavar: str | None = None
    panel: str | None = None
    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False
    choices: tuple[str, ...] = ()
    read: Read | None = None
    identity: str | None = None

    @property
    def field(self) -> Any:
        """A dataclass field that is None where nothing is given."""
        return dataclasses.field(default=None, metadata={"declaration": self})


def option(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field that has the default where nothing is given. more: attributes of its `Declaration`."""
    return dataclasses.field(default=default, metadata={"declaration": Declaration(help, default, **more)})


def declaration_of(f: dataclasses.Field[Any]) -> Declaration:
    """How a field was declared."""
    found: Declaration = f.metadata["declaration"]
    return found


def name_in_words(f: dataclasses.Field[Any]) -> str:
    """The name of an option in messages: its flag without dashes, `attack steps` for `--attack-steps`."""
    flag = declaration_of(f).flag or f.name.replace("_", "-")
    return flag.removeprefix("--").removeprefix("no-").replace("-", " ")


def kind_of(f: dataclasses.Field[Any], namespace: Mapping[str, Any] = MappingProxyType({})) -> type[Any]:
    """The type of a field's values: bool, int, float, str, tuple or, of the namespace, an enum."""
    names: dict[str, type[Any]] = {"bool": bool, "int": int, "float": float, "str": str}
    name = str(f.type).split(" | ")[0]
    return tuple if name.startswith("tuple[") else names.get(name) or namespace[name]


def json_value(value: Any) -> Any:
    """A value of a field as JSON has it: an enum's value, a tuple as a list, everything else as it is."""
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def checked(name: str, declaration: Declaration, kind: type[Any], value: Any) -> Any:
    """The value in the type of its field; InvalidInput in one line where it is of another, or outside its range."""
    if issubclass(kind, enum.Enum):
        return _member(name, kind, value)
    allowed = (int, float) if kind is float else (kind,)
    too_large = isinstance(value, int) and abs(value) >= 2**63
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool) or too_large:
        raise InvalidInput(f"{name} {_shown(value)}: give {_WORDS[kind]}")
    if declaration.choices and value not in declaration.choices:
        raise InvalidInput(f"{name} {_shown(value)}: choose {', '.join(declaration.choices)}")
    return _in_range(name, declaration, kind(value)) if kind in (int, float) else value


def _member(name: str, kind: type, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(str(m.value) for m in kind)  # type: ignore[attr-defined]
        raise InvalidInput(f"{name} {_shown(value)}: choose {choices}") from None


def _shown(value: Any) -> str:
    """The text of a value for a message; Python refuses to print numbers of thousands of digits."""
    try:
        return repr(str(value)[:40])
    except ValueError:
        return "of too many digits"


def _in_range(name: str, d: Declaration, value: float) -> float:
    high_enough = d.least is None or (value > d.least if d.above else value >= d.least)
    low_enough = d.most is None or (value < d.most if d.below else value <= d.most)
    if not (math.isfinite(value) and low_enough and high_enough):
        bounds = [f"{'above' if d.above else 'at least'} {d.least:g}"] if d.least is not None else []
        bounds += [f"{'below' if d.below else 'at most'} {d.most:g}"] if d.most is not None else []
        raise InvalidInput(f"{name} {value:g}: must be {' and '.join(bounds) or 'finite'}")
    return value
