"""Convolutions and transposed convolutions of one and two dimensions, zero-padded alike on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LinearOp, Shape
from llcert.ops.affine import channelwise


@dataclass(frozen=True)
class Conv(LinearOp):
    """Cross-correlation. weight: `[out, in / groups, *kernel]`; one stride, padding and dilation for each axis.

    Uneven padding is a Pad in front.
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)
    groups: int = 1

    def linear(self, x: Tensor) -> Tensor:
        convolve = F.conv1d if len(self.stride) == 1 else F.conv2d
        return convolve(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Conv:
        return replace(self, weight=entrywise(self.weight), bias=None)

    @property
    def offset(self) -> Tensor | None:
        return None if self.bias is None else channelwise(self.bias, len(self.stride))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        spatial = range(len(self.stride))
        kernel = self.weight.shape[2:]
        reached = [
            (y.shape[2 + i] - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (kernel[i] - 1) + 1
            for i in spatial
        ]
        unread = tuple(shape[1 + i] - reached[i] for i in spatial)
        transposed = F.conv_transpose1d if len(self.stride) == 1 else F.conv_transpose2d
        return transposed(y, self.weight, None, self.stride, self.padding, unread, self.groups, self.dilation)


@dataclass(frozen=True)
class ConvTranspose(LinearOp):
    """The adjoint of a Conv. weight: `[in, out / groups, *kernel]`. Uneven cropping is a Take behind."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    output_padding: Shape = (0, 0)
    dilation: Shape = (1, 1)
    groups: int = 1

    def linear(self, x: Tensor) -> Tensor:
        transposed = F.conv_transpose1d if len(self.stride) == 1 else F.conv_transpose2d
        return transposed(
            x, self.weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> ConvTranspose:
        return replace(self, weight=entrywise(self.weight), bias=None)

    @property
    def offset(self) -> Tensor | None:
        return None if self.bias is None else channelwise(self.bias, len(self.stride))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        convolve = F.conv1d if len(self.stride) == 1 else F.conv2d
        return convolve(y, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
