"""Values that meet: sums of branches and concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Join, Shape


@dataclass(frozen=True)
class Add(Join):
    """The sum of values of one shape. A difference is a sum with an Affine(-1) on one side."""

    def __call__(self, *values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def adjoints(self, y: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (y,) * len(shapes)


@dataclass(frozen=True)
class Concat(Join):
    """Values side by side along one axis."""

    axis: int

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.axis + 1)

    def adjoints(self, y: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return y.split([s[self.axis] for s in shapes], self.axis + 1)
