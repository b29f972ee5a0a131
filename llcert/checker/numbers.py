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
    """Lower bounds of `a . b` along the last axis of a, whatever the order of summation. b: one vector."""
    size = above(np.abs(a) @ np.abs(b), b.size + 2)
    return down(a @ b - above(gamma(b.size + 2) * size, 4))


def least_sum(values: Vector) -> Any:
    """Lower bounds of sums along the last axis, whatever the order of summation."""
    return least_product(values, np.ones(values.shape[-1]))


def least_sums(values: Vector, rows: NDArray[np.int64], shape: tuple[int, int]) -> Vector:
    """Lower bounds of the sums of the values of each row; rows: of each value. shape: rows, and values of a row."""
    count, most = shape
    size = above(np.bincount(rows, np.abs(values), count), most + 2)
    return np.asarray(down(np.bincount(rows, values, count) - above(gamma(most + 2) * size, 4)))


def down(value: Any) -> Any:
    """The next smaller float64: below the exact result of the one operation that gave `value`."""
    return np.nextafter(value, -np.inf)


def up(value: Any) -> Any:
    """The next larger float64."""
    return np.nextafter(value, np.inf)
