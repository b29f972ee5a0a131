"""Sums and averages: over whole axes, and over windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LinearOp, Shape


@dataclass(frozen=True)
class Reduce(LinearOp):
    """`weight` times the sum over some axes, which disappear: ReduceSum, ReduceMean, global average pooling."""

    axes: Shape
    weight: float = 1.0

    def linear(self, x: Tensor) -> Tensor:
        return self.weight * x.sum([a + 1 for a in self.axes])

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Reduce:
        return replace(self, weight=scalar(entrywise, self.weight))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        kept = [1 if i in self.axes else n for i, n in enumerate(shape)]
        return (self.weight * y).reshape(y.shape[0], *kept).expand(y.shape[0], *shape)


@dataclass(frozen=True)
class SumPool(LinearOp):
    """`weight` times the sum over windows of the last axes, unpadded: average pooling with weight 1 / window size.

    Padding is a Pad in front; a divisor that differs along the border is an Affine behind.
    """

    kernel: Shape
    stride: Shape
    weight: float = 1.0

    def linear(self, x: Tensor) -> Tensor:
        size = 1
        for k in self.kernel:
            size *= k
        pool = F.avg_pool1d if len(self.kernel) == 1 else F.avg_pool2d
        return pool(x, self.kernel, self.stride) * (self.weight * size)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> SumPool:
        return replace(self, weight=scalar(entrywise, self.weight))


def scalar(entrywise: Callable[[Tensor], Tensor], value: float) -> float:
    """An entrywise map applied to one number."""
    return float(entrywise(torch.tensor(value, dtype=torch.float64)))
