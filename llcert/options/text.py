"""Reads the values of options: radii, ranges, lists and batch sizes, as text or as Python values.

Each `read_...` brings both to the one form in which an option keeps them, and raises InvalidInput in one line, with the
option's name, for what it cannot read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from llcert.errors import InvalidInput

_FRACTION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*/\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)")
_END = re.compile(r"-?([0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2})?|[0-9]{1,18}/0*[1-9][0-9]{0,17})")


def parse_eps(text: str) -> float:
    """The radius that `36/255` (exactly) or `0.141` stands for, finite and >= 0; InvalidInput for anything else."""
    found = _FRACTION.fullmatch(text.strip())
    plain = text.isascii() and not text.strip().startswith("-")
    try:
        value = math.nan if not plain else float(Fraction(found[1]) / Fraction(found[2])) if found else float(text)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if value == 0 and re.search("[1-9]", text.lower().split("e")[0].split("/")[0]):
        value = math.nan  # not zero, but too small for a number
    if not 0 <= value < math.inf:
        raise InvalidInput(f"eps {text[:40]!r}: give a finite number >= 0 or a fraction such as 36/255, in pixel units")
    return value


def parse_range(text: str) -> tuple[str, str]:
    """The two ends of `0,1` or `-1/2,0.5` as texts of finite numbers, the lower one first; InvalidInput for others."""
    ends = tuple(part.strip() for part in text.split(","))
    two_numbers = len(ends) == 2 and all(_END.fullmatch(end) for end in ends)
    if not two_numbers or not float(Fraction(ends[0])) < float(Fraction(ends[1])):
        raise InvalidInput(f"range {text[:40]!r}: give the lowest and the highest value of a pixel, as in 0,1 or -1,1")
    return ends[0], ends[1]


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """The finite numbers of a comma list. name: of the option, for the message of InvalidInput."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(math.isfinite(value) for value in values):
        raise InvalidInput(f"{name} {text[:40]!r}: give one finite number a channel, as in 0.4914,0.4822,0.4465")
    return values


def parse_list(text: str) -> tuple[str, ...]:
    """The words of a comma list."""
    return tuple(part.strip() for part in text.split(","))


def read_eps(value: Any, name: str) -> Any:
    """A radius as text, or the radii of a vector; a floating-point number becomes its shortest decimal."""
    value = _numbers(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(read_eps(radius, name)) for radius in value)
    return str(value)


def read_range(value: Any, name: str) -> Any:
    """`LOW,HIGH` as text, or a pair."""
    value = _numbers(value)
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def read_numbers(value: Any, name: str) -> tuple[float, ...]:
    """A comma list, a sequence, or one number."""
    value = _numbers(value)
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    return parse_numbers(",".join(map(str, listed)), name)


def read_list(value: Any, name: str) -> tuple[str, ...]:
    """A comma list, or a sequence of texts."""
    if isinstance(value, str):
        return parse_list(value)
    if not isinstance(value, Sequence) or not all(isinstance(word, str) for word in value):
        raise InvalidInput(f"{name} {str(value)[:40]!r}: give a comma list, or a list of texts")
    return tuple(value)


def read_path(value: Any, name: str) -> Any:
    """A path as text."""
    return str(value) if isinstance(value, Path) else value


def read_batch_size(value: Any, name: str) -> Any:
    """A number of images; None for `auto`."""
    if not isinstance(value, str):
        return value
    if value == "auto":
        return None
    if not value.isdecimal() or not 1 <= len(value) <= 9 or int(value) < 1:
        raise InvalidInput(f"{name} {value[:40]!r}: give auto or a whole number >= 1")
    return int(value)


def _numbers(value: Any) -> Any:
    """Tensors and arrays as numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value
