"""Sums and averages: over whole axes, and over windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LONGEST_AXIS, LinearOp, Node, Shape, apply, number
from llcert.ops.divide import quotient
from llcert.ops.fused import check_zeros
from llcert.ops.linear import Linear
from llcert.ops.movement import Transpose, reshaped
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx
from llcert.ops.windows import (
    Widths,
    Windows,
    foreign,
    image,
    read_windows,
    rounded_up,
    torch_image,
    torch_sizes,
    torch_windows,
    zero_padded,
)


@dataclass(frozen=True)
class Reduce(LinearOp):
    """`weight` times the sum over some axes, which disappear: ReduceSum, ReduceMean, global average pooling."""

    axes: Shape
    weight: float = 1.0
    roundings = 6  # the weight or a division, the product, and four for a factor that a runtime folds into it

    def linear(self, x: Tensor) -> Tensor:
        return self.weight * x.sum([a + 1 for a in self.axes])

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Reduce:
        return replace(self, weight=number(entrywise, self.weight))

    def intermediate_size(self, size: Tensor) -> Tensor:
        """The sum, which may be scaled behind."""
        return replace(self, weight=max(abs(self.weight), 1.0)).linear(size)

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
    roundings = 6

    def scratch(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Every entry of every window."""
        return math.prod(output) * math.prod(self.kernel)

    def linear(self, x: Tensor) -> Tensor:
        size = 1
        for k in self.kernel:
            size *= k
        pool = F.avg_pool1d if len(self.kernel) == 1 else F.avg_pool2d
        return pool(x, self.kernel, self.stride) * (self.weight * size)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> SumPool:
        return replace(self, weight=number(entrywise, self.weight))

    def intermediate_size(self, size: Tensor) -> Tensor:
        """The sum, which may be scaled behind."""
        return replace(self, weight=max(abs(self.weight), 1.0)).linear(size)


def rescaled(node: Node, factor: float) -> Node | None:
    """A sum or an average times one number, as one operator; None for anything else."""
    match node.op:
        case Reduce(weight=1.0):
            op: LinearOp = replace(node.op, weight=factor)
        case SumPool(kernel=kernel, weight=weight) if weight == 1 / math.prod(kernel):
            op = replace(node.op, weight=factor / math.prod(kernel))
        case _:
            return None
    return apply(op, *node.inputs, name=node.name)


@from_onnx("ReduceSum", "ReduceMean")
def read_reduction(call: Call) -> Node:
    node, axes = call.node(0), call.integers("axes", 1)
    if not axes:
        if call.attributes.get("noop_with_empty_axes", 0):
            return node
        call.refuse("reduces over all axes, the batch too; name the axes")
    ours = tuple(sorted({call.axis(a, len(node.shape)) for a in axes}))
    return reduced(node, ours, mean=call.kind == "ReduceMean", keep=bool(call.attributes.get("keepdims", 1)))


def reduced(node: Node, axes: Shape, *, mean: bool, keep: bool) -> Node:
    """The sum or mean over some axes, which disappear or keep one entry."""
    weight = 1 / math.prod(node.shape[a] for a in axes) if mean else 1.0
    result = apply(Reduce(axes, weight), node)
    return reshaped(result, tuple(1 if i in axes else n for i, n in enumerate(node.shape))) if keep else result


@from_onnx("GlobalAveragePool")
def read_global_average(call: Call) -> Node:
    node = image(call)
    return foreign(call, reduced(node, tuple(range(1, len(node.shape))), mean=True, keep=True))


@from_onnx("AveragePool")
def read_average_pool(call: Call) -> Node:
    node = image(call)
    sizes = node.shape[1:]
    windows = read_windows(call, sizes, call.integers("kernel_shape") or ())
    if any(d != 1 for d in windows.dilation):
        call.refuse("averages over dilated windows; write it as a depthwise Conv")
    check_zeros(call, node, windows, largest=False)
    reached = rounded_up(sizes, windows) if call.attributes.get("ceil_mode", 0) else windows.padding
    counted = bool(call.attributes.get("count_include_pad", 0))
    return foreign(call, averaged(node, windows, reached=reached, counted=counted))


def averaged(node: Node, windows: Windows, *, reached: Widths, counted: bool) -> Node:
    """Averages over windows of `[channels, *spatial]`. reached: the padding that windows reach into, `ceil_mode` too.

    counted: whether the padding of `windows` counts in the divisor; what lies behind it never does.
    """
    size = math.prod(windows.kernel)
    whole = zero_padded(node, reached)
    pooled = apply(SumPool(windows.kernel, windows.stride, 1 / size), whole)
    counts = torch.ones((), dtype=torch.float64)
    for i, (length, (before, after)) in enumerate(zip(node.shape[1:], windows.padding, strict=True)):
        low, high = (-before, length + after) if counted else (0, length)
        starts = torch.arange(pooled.shape[1 + i]) * windows.stride[i] - reached[i][0]
        inside = (starts + windows.kernel[i]).clamp(max=high) - starts.clamp(min=low)
        counts = counts.unsqueeze(-1) * inside
    if bool((counts == size).all()):
        return pooled
    return quotient(apply(SumPool(windows.kernel, windows.stride), whole), counts)


@from_torch_op("sum", "mean")
def read_torch_reduction(call: Call) -> Node:
    node, axes = call.node("self"), call.integers("dim")
    if not axes:
        call.refuse("reduces over all images of the batch; name the axes")
    ours = tuple(sorted({call.axis(a, len(node.shape)) for a in axes}))
    return reduced(node, ours, mean=call.kind == "mean", keep=bool(call.attributes["keepdim"]))


@from_torch_op("avg_pool1d", "avg_pool2d")
def read_torch_average_pool(call: Call) -> Node:
    rank = 1 if "1d" in call.kind else 2
    node = torch_image(call, "self", rank)
    windows = torch_windows(call, torch_sizes(call, "kernel_size", rank))
    reached = rounded_up(node.shape[1:], windows) if call.attributes["ceil_mode"] else windows.padding
    divisor = call.attributes.get("divisor_override")
    if divisor is not None:
        return apply(SumPool(windows.kernel, windows.stride, 1 / int(divisor)), zero_padded(node, reached))
    return averaged(node, windows, reached=reached, counted=bool(call.attributes["count_include_pad"]))


@from_torch_op("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def read_torch_adaptive_average_pool(call: Call) -> Node:
    """Averages over windows that cover each axis evenly, one axis after the other."""
    rank = 1 if "1d" in call.kind else 2
    node, wanted = torch_image(call, "self", rank), torch_sizes(call, "output_size", rank)
    if min(wanted) < 1 or max(wanted) > LONGEST_AXIS:
        call.refuse(f"pools to {wanted}")
    if set(wanted) == {1}:
        return reduced(node, tuple(range(1, rank + 1)), mean=True, keep=True)
    sizes = node.shape[1:]
    if all(n % w == 0 for n, w in zip(sizes, wanted, strict=True)):
        kernel = tuple(n // w for n, w in zip(sizes, wanted, strict=True))
        return apply(SumPool(kernel, kernel, 1 / math.prod(kernel)), node)
    for axis, (size, count) in enumerate(zip(sizes, wanted, strict=True), start=1):
        order = tuple(rank if a == axis else axis if a == rank else a for a in range(rank + 1))
        windows = _even_windows(size, count)
        sums = apply(Linear(windows), apply(Transpose(order), node))
        node = apply(Transpose(order), quotient(sums, windows.sum(1)))
    return node


def _even_windows(size: int, count: int) -> Tensor:
    """Row i marks the entries from floor(i size / count) to ceil((i + 1) size / count), `[count, size]`."""
    rows = torch.zeros(count, size)
    for i in range(count):
        rows[i, i * size // count : -(-(i + 1) * size // count)] = 1
    return rows


@to_onnx(Reduce)
def write_reduce(op: Reduce, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    (source,) = node.inputs
    axes = [a + 1 for a in op.axes]
    if op.weight == 1 / math.prod(source.shape[a] for a in op.axes):
        return builder.add("ReduceMean", inputs, name=node.name, axes=axes, keepdims=0)
    total = builder.add("ReduceSum", [*inputs, builder.constant(torch.tensor(axes))], name=node.name, keepdims=0)
    return total if op.weight == 1 else builder.add("Mul", [total, builder.number(op.weight)], name=node.name)


@to_onnx(SumPool)
def write_sum_pool(op: SumPool, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    size = math.prod(op.kernel)
    average = builder.add("AveragePool", inputs, name=node.name, kernel_shape=list(op.kernel), strides=list(op.stride))
    if op.weight == 1 / size:
        return average
    return builder.add("Mul", [average, builder.number(op.weight * size)], name=node.name)
