"""Arithmetic with bounds on its rounding, in float64 (Higham 2002, chapters 2 and 3), number formats, exact numbers.

All other files compute through these functions, so that every result lies on the safe side of the exact one. Underflow
is in no `gamma` and is paid for by tiny numbers (rule 9 of docs/certificate.md).
"""

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

U, U32 = 2.0**-53, 2.0**-24
"""Unit roundoffs of float64 and float32."""


@dataclass(frozen=True)
class Format:
    """A number format in which a value is computed. unit: its unit roundoff. limit: sizes must stay below, or it may
    overflow."""

    unit: float
    limit: float


FORMATS = {"float32": Format(U32, 2.0**127), "float64": Format(U, 2.0**1023)}
TINY = 2.0**-900
"""Added to sizes before they are multiplied by gamma: gamma(n) TINY > n 2^-1022 pays for n underflows."""
SMALLEST = 2.0**-1022
"""The smallest normal number of float64, an upper bound of what an underflow changes."""


_DECIMAL, _FRACTION = (
    r"([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?",
    r"[0-9]{1,40}/0*[1-9][0-9]{0,39}",
)
_NUMBER = re.compile(f"-?({_DECIMAL}|{_FRACTION})")


def number(text: object, *, signed: bool = False) -> Fraction | None:
    """The exact value of a fraction or decimal of at most 40 digits a number, such as "36/255"; None for other texts.

    signed: whether it may be negative.
    """
    right = isinstance(text, str) and _NUMBER.fullmatch(text) and (signed or text[0] != "-")
    return Fraction(str(text)) if right else None


def rounded_up(exact: Fraction) -> float:
    """The least float64 that is not below the exact number."""
    nearest = float(exact)
    return nearest if Fraction(nearest) >= exact else math.nextafter(nearest, math.inf)


def gamma(count: int, unit: float = U) -> float:
    """`n u / (1 - n u)`, rounded up: a bound of the relative error of n roundings; infinite where n u >= 1/2."""
    product = count * unit
    return product / (1 - product) * (1 + 4 * U) if product < 0.5 else math.inf


def above(value: Any, count: int) -> Any:
    """An upper bound of the exact value of a number computed from terms >= 0 by at most `count` roundings."""
    return value * (1 + gamma(count + 4)) + TINY


def lengths(vectors: Vector) -> Vector:
    """Upper bounds of the 2-norms along the last axis; 0 only where all entries are.

    Squares below 2^-1022 are paid for by 2^-400.
    """
    found = np.sqrt(np.sum(vectors * vectors, axis=-1)) * (1 + gamma(vectors.shape[-1] + 8)) + 2.0**-400
    return np.where(np.any(vectors, axis=-1), found, 0.0)


def length(vector: Vector) -> float:
    """An upper bound of the 2-norm of one vector; 0 only where all entries are."""
    return float(lengths(vector))


def least_product(a: Vector, b: Vector) -> Any:
    """Lower bounds of `a . b` along the last axis of a, for any order of summation. b: one vector."""
    size = above(np.abs(a) @ np.abs(b), b.size + 2)
    return down(a @ b - above(gamma(b.size + 2) * size, 4))


def least_sum(values: Vector) -> Any:
    """Lower bounds of the sums along the last axis, for any order of summation."""
    return least_product(values, np.ones(values.shape[-1]))


def least_sums(values: Vector, rows: NDArray[np.int64], shape: tuple[int, int]) -> Vector:
    """Lower bounds of the sums of the values of each row. rows: the row of each value. shape: the number of rows, and
    of values in a row at most."""
    count, most = shape
    size = above(np.bincount(rows, np.abs(values), count), most + 2)
    return np.asarray(down(np.bincount(rows, values, count) - above(gamma(most + 2) * size, 4)))


def down(value: Any) -> Any:
    """The next smaller float64: below the exact result of the one operation that gave `value`."""
    return np.nextafter(value, -np.inf)


def up(value: Any) -> Any:
    """The next larger float64."""
    return np.nextafter(value, np.inf)
