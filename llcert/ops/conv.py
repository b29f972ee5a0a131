"""Convolutions and transposed convolutions of one and two dimensions, zero-padded alike on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LinearOp, Node, Shape, apply
from llcert.ops.affine import channelwise
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx
from llcert.ops.take import taken
from llcert.ops.windows import (
    Widths,
    Windows,
    foreign,
    image,
    paired,
    read_unpadded,
    read_windows,
    torch_image,
    torch_sizes,
    torch_windows,
    zero_padded,
)
from llcert.spectral import torus_bound


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
    trainable = ("weight", "bias")
    roundings = 6  # the product, and five for a factor that a runtime folds into the weights

    def scratch(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Every window as a column, as torch lays them out in float64."""
        return self.weight[0].numel() * self.groups * math.prod(output[1:])

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

    def norm_bound(self, shape: Shape) -> float:
        """That of the padded torus (docs/method.md, section 7.4), or that of row and column sums where it is lower."""
        outputs = tuple(self.linear(self.weight.new_zeros(1, *shape)).shape[2:])
        sizes = shape[1:], outputs, self.stride, self.padding, self.dilation
        return min(self.magnitude_bound(shape), torus_bound(self.weight, *sizes, self.groups))


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
    trainable = ("weight", "bias")
    roundings = 6  # the product, and five for a factor that a runtime folds into the weights

    def scratch(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Every window as a column, as torch lays them out."""
        return self.weight[0].numel() * self.groups * math.prod(inputs[0][1:])

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
        x = convolve(y, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        for axis, n in enumerate(shape):  # an output padding above the stride reaches further than the input
            x = x.narrow(axis + 1, 0, n)
        return x

    def norm_bound(self, shape: Shape) -> float:
        """The bound of the convolution it is the adjoint of: every input entry is a position of the kernel."""
        outputs = tuple(self.linear(self.weight.new_zeros(1, *shape)).shape[2:])
        sizes = outputs, shape[1:], self.stride, self.padding, self.dilation
        return min(self.magnitude_bound(shape), torus_bound(self.weight, *sizes, self.groups))


@from_onnx("Conv")
def read_conv(call: Call) -> Node:
    node, weight = image(call), _weight(call)
    windows = read_windows(call, node.shape[1:], tuple(weight.shape[2:]))
    groups = int(call.attributes.get("group", 1))
    return foreign(call, convolved(node, weight, _bias(call, weight.shape[0]), windows=windows, groups=groups))


def convolved(node: Node, weight: Tensor, bias: Tensor | None, *, windows: Windows, groups: int) -> Node:
    """The convolution of `[channels, *spatial]`; uneven padding goes into a Pad of its own."""
    padding = windows.padding
    even = all(before == after for before, after in padding)
    source = node if even else zero_padded(node, padding)
    inside = tuple(before for before, _ in padding) if even else (0,) * len(padding)
    return apply(Conv(weight, bias, windows.stride, inside, windows.dilation, groups), source)


@from_torch_op("conv1d", "conv2d", "convolution", "_convolution")
def read_torch_conv(call: Call) -> Node:
    if call.attributes.get("transposed"):
        return read_torch_conv_transpose(call)
    weight = call.required("weight")
    spatial = weight.ndim - 2
    node = torch_image(call, "self" if "self" in call.attributes else "input", spatial)
    windows = replace(torch_windows(call, tuple(weight.shape[2:])), padding=_torch_padding(call, weight))
    groups = int(call.attributes["groups"])
    return convolved(node, weight, call.constant("bias"), windows=windows, groups=groups)


def _torch_padding(call: Call, weight: Tensor) -> Widths:
    """The padding, also where it says `same` (which torch allows at stride 1 only) or `valid`."""
    kernel, mode = tuple(weight.shape[2:]), call.attributes["padding"]
    if mode == "valid":
        return ((0, 0),) * len(kernel)
    if mode == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, torch_sizes(call, "dilation", len(kernel)), strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in torch_sizes(call, "padding", len(kernel)))


@from_torch_op("conv_transpose1d", "conv_transpose2d")
def read_torch_conv_transpose(call: Call) -> Node:
    weight = call.required("weight")
    rank = weight.ndim - 2
    node = torch_image(call, "input", rank)
    stride, padding, extra, dilation = (
        torch_sizes(call, name, rank) for name in ("stride", "padding", "output_padding", "dilation")
    )
    groups = int(call.attributes["groups"])
    return apply(ConvTranspose(weight, call.constant("bias"), stride, padding, extra, dilation, groups), node)


@from_onnx("ConvTranspose")
def read_conv_transpose(call: Call) -> Node:
    node, weight = image(call), _weight(call)
    sizes = node.shape[1:]
    windows = read_unpadded(call, sizes, tuple(weight.shape[2:]))
    extra = call.integers("output_padding") or (0,) * len(sizes)
    if any(e >= max(s, d) for e, s, d in zip(extra, windows.stride, windows.dilation, strict=True)):
        call.refuse(f"its output_padding {extra} is not below its strides {windows.stride}")
    full = tuple((n - 1) * s + r + e for n, s, r, e in zip(sizes, windows.stride, windows.reach, extra, strict=True))
    cropped = _cropping(call, full, tuple(n * s for n, s in zip(sizes, windows.stride, strict=True)))
    groups = int(call.attributes.get("group", 1))
    common = tuple(min(before, after) for before, after in cropped)
    bias = _bias(call, weight.shape[1] * groups)
    op = ConvTranspose(weight, bias, windows.stride, common, extra, windows.dilation, groups)
    result = apply(op, node)
    for axis, ((before, after), both) in enumerate(zip(cropped, common, strict=True)):
        result = taken(result, axis + 1, range(before - both, result.shape[axis + 1] - (after - both)))
    return foreign(call, result)


def _cropping(call: Call, full: Shape, scaled: Shape) -> Widths:
    """How many entries a ConvTranspose cuts off at both ends. full: sizes without; scaled: with auto_pad SAME."""
    mode = call.attributes.get("auto_pad", "NOTSET")
    wanted = call.integers("output_shape") or (scaled if mode.startswith("SAME") else None)
    if wanted is None:
        return paired(call, call.integers("pads") or (0,) * (2 * len(full)), len(full))
    totals = [n - w for n, w in zip(full, wanted[-len(full) :], strict=True)]
    if min(totals) < 0:
        call.refuse(f"its output_shape {wanted} is larger than what it computes, {full}")
    halves = [(t // 2, t - t // 2) for t in totals]
    return tuple(halves if mode == "SAME_UPPER" else ((more, less) for less, more in halves))


def _weight(call: Call) -> Tensor:
    weight = call.required(1)
    named = call.integers("kernel_shape")
    if weight.ndim < 3 or (named is not None and named != tuple(weight.shape[2:])):
        call.refuse(f"its weight {tuple(weight.shape)} does not fit kernel_shape {named}")
    return weight


def _bias(call: Call, channels: int) -> Tensor | None:
    bias = call.constant(2)
    if bias is not None and tuple(bias.shape) != (channels,):
        call.refuse(f"its bias has shape {tuple(bias.shape)} for {channels} channels")
    return bias


@to_onnx(Conv)
def write_conv(op: Conv, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Conv", [*inputs, *_parameters(op, builder)], name=node.name, **_attributes(op))


@to_onnx(ConvTranspose)
def write_conv_transpose(op: ConvTranspose, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    attributes = _attributes(op) | {"output_padding": list(op.output_padding)}
    return builder.add("ConvTranspose", [*inputs, *_parameters(op, builder)], name=node.name, **attributes)


def _parameters(op: Conv | ConvTranspose, builder: OnnxBuilder) -> list[str]:
    return [builder.constant(t) for t in (op.weight, op.bias) if t is not None]


def _attributes(op: Conv | ConvTranspose) -> dict[str, Any]:
    return {
        "kernel_shape": list(op.weight.shape[2:]),
        "strides": list(op.stride),
        "pads": [*op.padding, *op.padding],
        "dilations": list(op.dilation),
        "group": op.groups,
    }
