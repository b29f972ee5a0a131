"""What rounding may do to a computed number, and how to stay on the safe side of it (docs/method.md, section 12)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounding:
    """A floating-point format with round-to-nearest, in any order of summation, subnormals flushed or not.

    unit: unit roundoff u. tiny: the smallest normal number, which bounds the absolute error of an underflow. largest:
    the largest finite number.
    """

    unit: float
    tiny: float
    largest: float

    def gamma(self, count: int) -> float:
        """`n u / (1 - n u)`, rounded up: the relative error of `n` roundings in a row (Higham 2002, section 3.1).

        Infinite where the format cannot bound so many.
        """
        product = count * self.unit
        return math.nextafter(product / (1 - product) * (1 + 2**-50), math.inf) if product < 0.5 else math.inf

    def above(self, value: Tensor, count: int = 1) -> Tensor:
        """An upper bound of the exact value of which `value` is a computed one, `count` roundings deep.

        value: float64, computed in this format from terms >= 0 with sums, products, quotients and roots only. Zero
        stays zero only where nothing was rounded, so the result is positive; NaN stays NaN.
        """
        return value * (1 + self.gamma(count + 4)) + (count + 4) * self.tiny

    def nearest(self, size: Tensor) -> Tensor:
        """How far the nearest number of the format is from one of at most this size, or zero where it is subnormal."""
        return self.unit * size + self.tiny

    def bound(self, value: float, count: int = 1) -> float:
        """`above` for one number."""
        return value * (1 + self.gamma(count + 4)) + (count + 4) * self.tiny


DOUBLE = Rounding(2.0**-53, 2.0**-1022, torch.finfo(torch.float64).max)
SINGLE = Rounding(2.0**-24, 2.0**-126, torch.finfo(torch.float32).max)

FORMATS: Final[Mapping[torch.dtype, Rounding]] = MappingProxyType({torch.float32: SINGLE, torch.float64: DOUBLE})
"""The number formats that a value which depends on the image may have."""


def upwards(value: Tensor) -> Tensor:
    """The next larger float64."""
    return torch.nextafter(value, value.new_full((), torch.inf))


def downwards(value: Tensor) -> Tensor:
    """The next smaller float64."""
    return torch.nextafter(value, value.new_full((), -torch.inf))


@contextmanager
def direct_sums() -> Iterator[None]:
    """Products are added up, in whatever order: no transforms (FFT, Winograd), so cuDNN is off inside."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
