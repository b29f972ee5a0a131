"""The number of images in a batch as a symbol: a network may use it as the size of the first axis, and no other way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard


class DependsOnBatch(ArithmeticError):
    """A number was asked for that depends on how many images a batch has."""

    def __init__(self) -> None:
        super().__init__("depends on how many images a batch has; a certificate looks at one image at a time")


@dataclass(frozen=True, eq=False)
class BatchSize:
    """`factor` times the number of images in a batch, which is at least one and otherwise unknown; factor >= 1.

    Products, exact quotients and comparisons that hold for every batch are computed. Everything else, also whether it
    equals a number that it may equal, raises DependsOnBatch.
    """

    factor: int = 1

    def __mul__(self, other: object) -> BatchSize | int:
        if not _whole(other) or other < 0:
            raise DependsOnBatch
        return BatchSize(self.factor * other) if other else 0

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> BatchSize | int:
        if isinstance(other, BatchSize):
            return self.factor // other.factor
        if not _whole(other) or other < 1 or self.factor % other:
            raise DependsOnBatch
        return BatchSize(self.factor // other)

    def __rfloordiv__(self, other: object) -> int:
        if not _whole(other) or other != 0:
            raise DependsOnBatch
        return 0

    def __mod__(self, other: object) -> int:
        divisor = other.factor if isinstance(other, BatchSize) else other
        if not _whole(divisor) or divisor < 1 or self.factor % divisor:
            raise DependsOnBatch
        return 0

    def __add__(self, other: object) -> BatchSize:
        if isinstance(other, BatchSize):
            return BatchSize(self.factor + other.factor)
        if not _whole(other) or other != 0:
            raise DependsOnBatch
        return self

    __radd__ = __add__

    def __sub__(self, other: object) -> BatchSize | int:
        difference = self.factor - other.factor if isinstance(other, BatchSize) else 0
        if difference < 0 or not (isinstance(other, BatchSize) or (_whole(other) and other == 0)):
            raise DependsOnBatch
        return BatchSize(difference) if difference else (0 if isinstance(other, BatchSize) else self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BatchSize):
            return self.factor == other.factor
        return not self._above(other) if isinstance(other, int | float) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self.factor < other.factor if isinstance(other, BatchSize) else not self._above(other)

    def __le__(self, other: object) -> bool:
        return self.factor <= other.factor if isinstance(other, BatchSize) else not self._above(other)

    def __gt__(self, other: object) -> bool:
        return self.factor > other.factor if isinstance(other, BatchSize) else self._above(other)

    def __ge__(self, other: object) -> bool:
        if isinstance(other, BatchSize):
            return self.factor >= other.factor
        return (_whole(other) and other <= self.factor) or self._above(other)

    def _above(self, other: object) -> bool:
        """True where it is larger than a number for every batch; raises where it is not for some."""
        if not _whole(other) or other >= self.factor:
            raise DependsOnBatch
        return True

    def __index__(self) -> int:
        raise DependsOnBatch

    __int__ = __index__

    def __float__(self) -> float:
        raise DependsOnBatch

    def __hash__(self) -> int:
        return hash(("BatchSize", self.factor))

    def __repr__(self) -> str:
        return "batch" if self.factor == 1 else f"{self.factor} * batch"


BATCH = BatchSize()
"""The number of images itself."""

Size = int | BatchSize


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
