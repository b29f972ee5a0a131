"""Ranges of pixel values: the points of a ball that a specification counts, where it counts only pictures
(docs/method.md, sections 1 and 13)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.tensors import flat


@dataclass(frozen=True)
class PixelRange:
    """The values a pixel may have, both ends included, in pixel units.

    low, high: finite, low < high, rounded outwards from the numbers as they were written. texts: these, as text.
    """

    low: float = 0.0
    high: float = 1.0
    texts: tuple[str, str] = ("0", "1")

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise InvalidInput(
                f"a pixel range from {self.low} to {self.high}: give finite numbers, the lower one first"
            )

    @staticmethod
    def of(low: str, high: str) -> PixelRange:
        """The range between two fractions or decimals, rounded outwards."""
        ends = Fraction(low), Fraction(high)
        nearest = float(ends[0]), float(ends[1])
        below, above = math.nextafter(nearest[0], -math.inf), math.nextafter(nearest[1], math.inf)
        outwards = (
            nearest[0] if nearest[0] <= ends[0] else below,
            nearest[1] if nearest[1] >= ends[1] else above,
        )
        return PixelRange(*outwards, (low, high))

    @property
    def words(self) -> str:
        """For people: `[0, 1]`."""
        return f"[{', '.join(self.texts)}]"

    def covers(self, low: float, high: float) -> bool:
        """Whether values from `low` to `high` lie within the range."""
        return self.low <= low <= high <= self.high

    def clip(self, points: Tensor) -> Tensor:
        """The nearest points within the range."""
        return points.clamp(self.low, self.high)

    def holds(self, images: Tensor) -> Tensor:
        """Whether all pixels of each image lie within the range, `[batch]`; NaN does not."""
        exact = images.double()
        return flat((exact >= self.low) & (exact <= self.high)).all(1)


UNIT = PixelRange()
"""The default pixel range."""
