"""The result of a norm computation, and on which side of the true norm it lies."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llcert.spectral.linear_map import Masked


class Side(enum.Enum):
    """Which side of the true norm a value is known to lie on. Only UPPER may support a deterministic certificate."""

    UPPER = "upper"
    PROBABLE = "probable"  # an upper bound with a stated failure probability
    ESTIMATE = "estimate"  # power iteration: in exact arithmetic never above the truth, usually just below it


def weakest(*sides: Side) -> Side:
    """The side of what follows from values of these sides."""
    return max(sides, key=list(Side).index)


@dataclass(frozen=True)
class Norm:
    """The largest singular value of the map of each image, as a solver found it; `side` says on which side it may err.

    value: `[batch]`. vector: `[batch, *columns]`, unit right singular vectors, for warm starts; None from a solver that
    finds none. iterations: `[batch]`, int64. converged: `[batch]`, False where the value must not be used.
    """

    value: Tensor
    side: Side
    vector: Tensor | None
    iterations: Tensor
    converged: Tensor

    def select(self, images: Tensor) -> Norm:
        """The norms of some images; images: mask or index."""
        vector = None if self.vector is None else self.vector[images]
        return Norm(self.value[images], self.side, vector, self.iterations[images], self.converged[images])


class Solver(Protocol):
    """Computes the norms of a batch of masked maps.

    It gives every image the value that it would have alone, but for rounding, and says honestly on which side it lies:
    `UPPER` only with a proof of the value, rounding included, for the map in real numbers. Where it found nothing, or a
    value that is not finite, it says `converged` False, and the global norm stands in.
    """

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norm of every image's map; start: `[batch, *columns]`, any length."""
        ...
