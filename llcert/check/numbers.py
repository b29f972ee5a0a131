"""Bounds on what rounding does to float64 numbers (Higham, Accuracy and Stability, 2002, chapters 2 and 3)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

U = 2.0**-53
U32 = 2.0**-24


@dataclass(frozen=True)
class Format:
    """A number format that a value is computed in. unit: of its roundings. limit: no larger size is followed."""

    unit: float
    limit: float


FORMATS = {"float32": Format(U32, 2.0**127), "float64": Format(U, 2.0**1023)}
TINY = 2.0**-900
"""Added to sizes before gamma times them bounds an error: gamma(n) TINY > n 2^-1022 pays for n underflows."""
SMALLEST = 2.0**-1022
"""The smallest normal number: at most what an underflow may change a number by."""


_DECIMAL, _FRACTION = (
    r"([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?",
    r"[0-9]{1,40}/0*[1-9][0-9]{0,39}",
)
_NUMBER = re.compile(f"-?({_DECIMAL}|{_FRACTION})")


def number(text: object, *, signed: bool = False) -> Fraction | None:
    """The exact number that a fraction or decimal of a few digits stands for; None for everything else."""
    right = isinstance(text, str) and _NUMBER.fullmatch(text) and (signed or text[0] != "-")
    return Fraction(str(text)) if right else None


def rounded_up(exact: Fraction) -> float:
    """The least float64 that is not smaller."""
    nearest = float(exact)
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)


def gamma(count: int, unit: float = U) -> float:
    """`n u / (1 - n u)`, rounded up: the relative error of n roundings in a row; infinite where n u >= 1/2."""
    product = count * unit
    return product / (1 - product) * (1 + 4 * U) if product < 0.5 else math.inf


def above(value: Any, count: int) -> Any:
    """An upper bound of the exact value that `value` was computed for, from terms >= 0 in at most `count` roundings."""
    return value * (1 + gamma(count + 4)) + TINY


def length(vector: Vector) -> float:
    """An upper bound of the 2-norm; 0 only where all entries are. Squares below 2^-1022 are paid for by 2^-400."""
    if not np.any(vector):
        return 0.0
    return float(np.sqrt(np.dot(vector, vector))) * (1 + gamma(vector.size + 8)) + 2.0**-400


def least_product(a: Vector, b: Vector) -> float:
    """A lower bound of `a . b`, whatever the order of summation."""
    size = above(float(np.dot(np.abs(a), np.abs(b))), a.size + 2)
    return down(float(np.dot(a, b)) - above(gamma(a.size + 2) * size, 4))


def least_sum(values: Vector) -> float:
    """A lower bound of the sum, whatever the order of summation."""
    return least_product(values, np.ones_like(values))


def down(value: Any) -> Any:
    """The next smaller float64: below the exact result of the one operation that gave `value`."""
    return np.nextafter(value, -np.inf)


def up(value: Any) -> Any:
    """The next larger float64."""
    return np.nextafter(value, np.inf)
