"""MaxMin, plain and clipped: a pair of values is replaced by its larger and its smaller one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Activation, Op, Shape
from llcert.region import Region


@dataclass(frozen=True)
class MaxMin(Activation):
    """`min(max(a, b), high)` and `max(min(a, b), low)` for every pair (a, b) along one axis.

    pairs: False: a is the first half of the axis and b the second, maxima come first and minima second; True: a and b
    are neighbours, (max, min) takes their places. high, low: thresholds broadcastable to the shape of the maxima
    (`pairs`: to half the axis), pre-activation units; None for none. A pair's map is nonexpansive.
    """

    axis: int = 0
    pairs: bool = False
    high: Tensor | None = None
    low: Tensor | None = None

    def __call__(self, *values: Tensor) -> Tensor:
        a, b = self.split(values[0])
        largest, smallest = torch.maximum(a, b), torch.minimum(a, b)
        if self.high is not None:
            largest = torch.minimum(largest, self.high)
        if self.low is not None:
            smallest = torch.maximum(smallest, self.low)
        return self.merge(largest, smallest)

    @property
    def label(self) -> str:
        return "MaxMin" if self.high is None and self.low is None else "clipped MaxMin"

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the second of every pair, each `[batch, ..., channels / 2, ...]`."""
        if self.pairs:
            a, b = z.unflatten(self.axis + 1, (-1, 2)).unbind(self.axis + 2)
        else:
            a, b = z.chunk(2, self.axis + 1)
        return a, b

    def merge(self, first: Tensor, second: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self.pairs:
            return torch.stack((first, second), self.axis + 2).flatten(self.axis + 1, self.axis + 2)
        return torch.cat((first, second), self.axis + 1)

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        """The maximum is constant once both or either lower bound passes `high`, the minimum likewise at `low`."""
        (lower_a, lower_b), (upper_a, upper_b) = self.split(z.lower), self.split(z.upper)
        largest, smallest = torch.maximum(lower_a, lower_b), torch.minimum(upper_a, upper_b)
        never = torch.full_like(largest, torch.inf)
        top = never if self.high is None else self.high - largest
        bottom = never if self.low is None else smallest - self.low
        return (self.merge(top, bottom),)

    def slope(self, z: Region) -> Tensor:
        """Zero where everything a value can reach is constant: both outputs, or its own where the order is fixed."""
        (lower_a, lower_b), (upper_a, upper_b) = self.split(z.lower), self.split(z.upper)
        largest, smallest = self.split(self.varying(z))
        a_first, b_first = lower_a >= upper_b, lower_b >= upper_a
        either = largest | smallest
        a = torch.where(a_first, largest, torch.where(b_first, smallest, either))
        b = torch.where(a_first, smallest, torch.where(b_first, largest, either))
        return self.merge(a, b).to(z.centre.dtype)

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class GroupSort(Activation):
    """Neighbours along one axis sorted in groups of `size`: nonexpansive (Anil et al. 2019)."""

    axis: int
    size: int
    descending: bool = False

    def __call__(self, *values: Tensor) -> Tensor:
        groups = values[0].unflatten(self.axis + 1, (-1, self.size))
        ordered = groups.sort(self.axis + 2, descending=self.descending).values
        return ordered.flatten(self.axis + 1, self.axis + 2)

    @property
    def label(self) -> str:
        return f"GroupSort({self.size})"

    def slope(self, z: Region) -> Tensor:
        return torch.ones_like(z.centre)

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class Extreme(Op):
    """The elementwise maximum or minimum of two values: what files say; passes turn it into halves of a MaxMin."""

    largest: bool

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.maximum(*values) if self.largest else torch.minimum(*values)
