"""What a solver returns: norms of a batch, each with the side of the true norm on which it lies (`Norm`, `Side`)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llcert.spectral.linear_map import Masked


class Side(enum.Enum):
    """On which side of the true norm a value lies. Only UPPER may support a deterministic certificate.

    Strongest first.
    """

    UPPER = "upper"  # an upper bound, proved with rounding included
    PROBABLE = "probable"  # an upper bound with a stated probability of failure
    ESTIMATE = "estimate"  # from an iteration: in exact arithmetic at most the norm, usually just below it


def weakest(*sides: Side) -> Side:
    """The side of a bound that is computed from several values: the weakest of theirs."""
    return max(sides, key=list(Side).index)


@dataclass(frozen=True)
class Norm:
    """The largest singular value of the masked map of each image; `side` says on which side of the truth values lie.

    value: `[batch]`.
    vector: where a solver of nearly the same maps may start, `[batch, *columns]`: a unit right singular vector of each
    from a solver that finds one, else the start that was given, or None.
    iterations: steps or factorisations, `[batch]`, whole numbers.
    converged: `[batch]`, False where the value must not be used.
    """

    value: Tensor
    side: Side
    vector: Tensor | None
    iterations: Tensor
    converged: Tensor

    def select(self, images: Tensor) -> Norm:
        """The norms of some images; images: a mask or indices."""
        vector = None if self.vector is None else self.vector[images]
        return Norm(self.value[images], self.side, vector, self.iterations[images], self.converged[images])


class Solver(Protocol):
    """Computes the norms of a batch of masked maps.

    An estimate of an image is what it would be alone, but for rounding; how near the truth a proved or a probable bound
    is may depend on the rest of the batch, whether it holds does not. `Norm.side` is `UPPER` only for values that are
    proved, rounding included, of the map in real numbers. Where a solver finds nothing, or a value that is not
    finite, `Norm.converged` is False, and the caller takes the norm of the unmasked map instead.
    """

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norm of every image's map; start: `[batch, *columns]`, any length."""
        ...
