"""`.vnnlib` 1.0 properties: a box of inputs and the class claimed for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Union

import numpy as np

from llcert.data.dataset import ArrayImages, Dataset, Pixels, narrowest
from llcert.data.reading import decode_text, read_file
from llcert.errors import InvalidInput

_LIMIT = 64 << 20
_MAX_DEPTH = 16
_MAX_TOKEN = 64
_MAX_EXPONENT = 400
_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";[^\n]*")
_VARIABLE = re.compile(r"([XY])_([0-9]{1,7})")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

Expression = Union[str, "list[Expression]"]
Term = Fraction | tuple[str, int]
Beats = tuple[int, int]


class _Unusable(Exception):
    """Why the property cannot be read, for the one line of InvalidInput."""


@dataclass(frozen=True)
class _Property:
    """What the assertions say, filled in as they are read.

    declared: indices of the variables, by letter.
    lower, upper: bounds by input.
    required: pairs (i, j) of `Y_i >= Y_j` that all have to hold in a counterexample; choices: of which one has to.
    """

    declared: dict[str, set[int]] = field(default_factory=lambda: {"X": set(), "Y": set()})
    lower: dict[int, Fraction] = field(default_factory=dict)
    upper: dict[int, Fraction] = field(default_factory=dict)
    required: list[Beats] = field(default_factory=list)
    choices: list[list[Beats]] = field(default_factory=list)


def load_vnnlib(path: Path) -> Dataset:
    """The centre of the property's box as one flat image `[inputs]`, labelled with the class that is claimed.

    Raises InvalidInput where the file is no VNN-LIB 1.0, has no single bounded box, or does not claim a class in the
    usual way: a counterexample needs `Y_i >= Y_label` for one of the other outputs `i`.
    """
    text = decode_text(read_file(path, _LIMIT, "vnnlib file"), path)
    found = _Property()
    try:
        for expression in _expressions(_COMMENT.sub("", text)):
            _read(expression, found)
        centre, label = _centre(found), _label(found)
    except _Unusable as reason:
        raise InvalidInput(f"{path}: {reason}; llcert reads VNN-LIB 1.0, one box of inputs and one class") from None
    images = ArrayImages(centre[None])
    labels = np.array([label], dtype=np.int64)
    return Dataset(str(path), "all", images, labels, len(found.declared["Y"]), centre.shape, note=f"centre of {path}")


def _expressions(text: str) -> Iterator[Expression]:
    """The expressions of the text, each a nested list of words."""
    stack: list[list[Expression]] = [[]]
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "(":
            stack.append([])
            if len(stack) > _MAX_DEPTH:
                raise _Unusable("expressions are nested too deeply")
        elif token == ")":
            done = stack.pop()
            if not stack:
                raise _Unusable("a bracket closes that was not opened")
            stack[-1].append(done)
        elif len(token) > _MAX_TOKEN:
            raise _Unusable(f"cannot read {token[:_MAX_TOKEN]!r}")
        else:
            stack[-1].append(token)
        if len(stack) == 1:
            yield stack[0].pop()
    if len(stack) > 1:
        raise _Unusable("the file ends within an expression")


def _read(expression: Expression, found: _Property) -> None:
    match expression:
        case ["declare-const", str() as name, "Real"]:
            letter, index = _variable(name)
            if index in found.declared[letter]:
                raise _Unusable(f"{name} is declared twice")
            found.declared[letter].add(index)
        case ["assert", body]:
            _require(body, found)
        case _:
            raise _Unusable(f"cannot read {_shown(expression)}")


def _require(body: Expression, found: _Property) -> None:
    match body:
        case ["and", *parts]:
            for part in parts:
                _require(part, found)
        case ["or", only]:
            _require(only, found)
        case ["or", *parts]:
            found.choices.append([_only_pair(part, found) for part in parts])
        case [">=" | ">" | "<=" | "<" as sign, left, right]:
            high, low = (left, right) if sign in (">=", ">") else (right, left)
            _compare(_term(high, found), _term(low, found), body, found)
        case _:
            raise _Unusable(f"cannot read {_shown(body)}")


def _compare(high: Term, low: Term, body: Expression, found: _Property) -> None:
    match high, low:
        case ("X", index), Fraction() as bound:
            found.lower[index] = max(bound, found.lower.get(index, bound))
        case Fraction() as bound, ("X", index):
            found.upper[index] = min(bound, found.upper.get(index, bound))
        case ("Y", winner), ("Y", loser):
            found.required.append((winner, loser))
        case _:
            raise _Unusable(f"{_shown(body)} neither bounds an input nor compares two outputs")


def _only_pair(part: Expression, found: _Property) -> Beats:
    """The one comparison of two outputs that this alternative consists of."""
    inner = _Property(found.declared)
    _require(part, inner)
    if inner.lower or inner.upper or inner.choices or len(inner.required) != 1:
        raise _Unusable("an alternative is more than one comparison of two outputs")
    return inner.required[0]


def _variable(name: str) -> tuple[str, int]:
    matched = _VARIABLE.fullmatch(name)
    if matched is None:
        raise _Unusable(f"{name!r} is neither an input X_i nor an output Y_i")
    return matched[1], int(matched[2])


def _term(word: Expression, found: _Property) -> Term:
    if not isinstance(word, str):
        raise _Unusable(f"cannot read {_shown(word)}")
    if _NUMBER.fullmatch(word):
        number = Decimal(word)
        if number and abs(number.adjusted()) > _MAX_EXPONENT:
            raise _Unusable(f"{word} is too large or too small a number")
        return Fraction(number)
    letter, index = _variable(word)
    if index not in found.declared[letter]:
        raise _Unusable(f"{word} is used before it is declared")
    return letter, index


def _shown(expression: Expression) -> str:
    return repr(expression)[:80]


def _centre(found: _Property) -> Pixels:
    """The centre of the box, every entry the nearest float64, `[inputs]`."""
    count = len(found.declared["X"])
    if not count or found.declared["X"] != set(range(count)):
        raise _Unusable("inputs are not declared as X_0, X_1, ...")
    return narrowest(np.array([_middle(index, found) for index in range(count)]))


def _middle(index: int, found: _Property) -> float:
    if index not in found.lower or index not in found.upper:
        raise _Unusable(f"X_{index} has no lower and upper bound")
    lower, upper = found.lower[index], found.upper[index]
    if lower > upper:
        raise _Unusable(f"X_{index} has a lower bound above its upper bound")
    try:
        return float((lower + upper) / 2)
    except OverflowError:
        raise _Unusable(f"X_{index} has no finite centre") from None


def _label(found: _Property) -> int:
    """The class whose output stays largest unless one of the alternatives holds."""
    outputs = found.declared["Y"]
    if not outputs or outputs != set(range(len(outputs))):
        raise _Unusable("outputs are not declared as Y_0, Y_1, ...")
    ways = [*found.choices, found.required]
    beats = next((way for way in ways if way), [])
    losers = {loser for _, loser in beats}
    if sum(bool(way) for way in ways) != 1 or (found.required and len(found.required) > 1) or len(losers) != 1:
        raise _Unusable("the assertions on the outputs do not say which class is claimed (some Y_i >= Y_label)")
    label = losers.pop()
    if any(winner == label for winner, _ in beats):
        raise _Unusable(f"Y_{label} is compared with itself")
    return label
