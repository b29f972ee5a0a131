"""Dense layers: one matrix applied along the last axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LinearOp, Shape


@dataclass(frozen=True)
class Linear(LinearOp):
    """`W x + b` along the last axis. weight: `[out, in]`; bias: `[out]` or None."""

    weight: Tensor
    bias: Tensor | None = None

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Linear:
        return Linear(entrywise(self.weight))

    @property
    def offset(self) -> Tensor | None:
        return self.bias

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return y @ self.weight
