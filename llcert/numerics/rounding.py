"""Floating-point formats: error bounds of sums and products, and directed rounding (docs/method.md, section 12)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Rounding:
    """A floating-point format with rounding to nearest. Bounds hold for sums in any order, subnormals flushed or not.

    unit: unit roundoff u. tiny: the smallest normal number, which bounds the absolute error of an underflow. largest:
    the largest finite number.
    """

    unit: float
    tiny: float
    largest: float

    def gamma(self, count: int) -> float:
        """`n u / (1 - n u)`, rounded up: a bound of the relative error of n roundings (Higham 2002, section 3.1).

        Infinite where n u is not below 1/2.
        """
        product = count * self.unit
        return math.nextafter(product / (1 - product) * (1 + 2**-50), math.inf) if product < 0.5 else math.inf

    def above(self, value: Number, count: int = 1) -> Number:
        """An upper bound of the exact value of a number computed with `count` roundings; of each, for a tensor.

        value: float64, computed in this format from terms >= 0 with sums, products, quotients and roots only. The
        result is positive, as a computed zero may be an underflow; NaN stays NaN.
        """
        return value * (1 + self.gamma(count + 4)) + (count + 4) * self.tiny

    def nearest(self, size: Tensor) -> Tensor:
        """Upper bound of the error of rounding a number of at most this size, or of flushing it if it is subnormal."""
        return self.unit * size + self.tiny


DOUBLE = Rounding(2.0**-53, 2.0**-1022, torch.finfo(torch.float64).max)
SINGLE = Rounding(2.0**-24, 2.0**-126, torch.finfo(torch.float32).max)

FORMATS: Final[Mapping[torch.dtype, Rounding]] = MappingProxyType({torch.float32: SINGLE, torch.float64: DOUBLE})
"""The number formats of values that depend on the image."""


def upwards(value: Tensor) -> Tensor:
    """The next larger float64."""
    return torch.nextafter(value, value.new_full((), torch.inf))


def downwards(value: Tensor) -> Tensor:
    """The next smaller float64."""
    return torch.nextafter(value, value.new_full((), -torch.inf))
