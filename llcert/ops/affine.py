"""Elementwise affine maps: normalisation, scaling, added constants, batch norm in inference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp


@dataclass(frozen=True)
class Affine(LinearOp):
    """`scale * x + shift`, both broadcastable to the shape of x; None for one and for zero."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    moves = True

    def linear(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x * self.scale

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Affine:
        return Affine(None if self.scale is None else entrywise(self.scale))

    @property
    def offset(self) -> Tensor | None:
        return self.shift

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.linear(y)


@dataclass(frozen=True)
class BatchNorm(LinearOp):
    """Batch normalisation with frozen statistics: affine, one weight, bias, mean and variance a channel (first axis).

    spatial: the number of axes behind the channels. eps: added to the variance, as the exporter says.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    eps: float = 1e-5
    spatial: int = 2
    moves = True

    @property
    def scale(self) -> Tensor:
        """The factor of each channel, `[channels, 1, ...]`."""
        return channelwise(self.weight / torch.sqrt(self.variance + self.eps), self.spatial)

    def linear(self, x: Tensor) -> Tensor:
        return x * self.scale

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Affine:
        return Affine(entrywise(self.scale))

    def __call__(self, *values: Tensor) -> Tensor:
        (x,) = values
        return (x - channelwise(self.mean, self.spatial)) * self.scale + channelwise(self.bias, self.spatial)

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.linear(y)


def channelwise(values: Tensor, spatial: int) -> Tensor:
    """One value a channel, shaped to broadcast over `spatial` axes behind it."""
    return values.reshape(-1, *[1] * spatial)
