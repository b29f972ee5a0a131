"""Max pooling over windows of the last one or two axes (docs/method.md, Proposition 4.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.domain.region import Region
from llcert.ir import LARGEST_VALUE, Activation, Node, Shape, apply
from llcert.ops.fused import check_zeros
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx
from llcert.ops.windows import (
    Windows,
    foreign,
    image,
    read_windows,
    rounded_up,
    torch_image,
    torch_sizes,
    torch_windows,
)


@dataclass(frozen=True)
class MaxPool(Activation):
    """The largest entry of each window. One kernel, stride, dilation and (before, after) padding for each pooled axis.

    Padding never wins; every window must see at least one real entry. Overlapping windows give a norm above one:
    an entry counts once for every window it may win (the root of that number is its slope).
    """

    kernel: Shape
    stride: Shape
    padding: tuple[tuple[int, int], ...]
    dilation: Shape
    roundings = 0
    increasing = True
    slope_roundings = 1

    def scratch(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Every entry of every window."""
        return math.prod(output) * math.prod(self.kernel)

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        widths = [w for pair in reversed(self.padding) for w in pair]
        padded = F.pad(z, widths, value=-torch.inf) if any(widths) else z
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        return pool(padded, self.kernel, self.stride, 0, self.dilation)

    def slope(self, z: Region) -> Tensor:
        """The root of the number of windows whose maximum an entry can be over the box."""
        floor = self(z.lower)
        return torch.sqrt(self._windows(z.upper, lambda entries, window: ~(entries < window), floor))

    def global_slope(self, shape: Shape) -> Tensor:
        entries = torch.zeros(1, *shape, dtype=torch.float64)
        return torch.sqrt(self._windows(entries, lambda e, w: torch.ones_like(e, dtype=torch.bool), self(entries)))[0]

    def _windows(self, z: Tensor, counts: Callable[[Tensor, Tensor], Tensor], floor: Tensor) -> Tensor:
        """For each entry, the number of windows where `counts(entry, window's floor)`, `[batch, *shape]`."""
        spatial = len(self.kernel)
        sizes = [n + before + after for n, (before, after) in zip(z.shape[-spatial:], self.padding, strict=True)]
        total = torch.zeros(*z.shape[:-spatial], *sizes, dtype=z.dtype, device=z.device)
        widths = [w for pair in reversed(self.padding) for w in pair]
        padded = F.pad(z, widths, value=-torch.inf)
        for position in torch.cartesian_prod(*(torch.arange(k) for k in self.kernel)).reshape(-1, spatial).tolist():
            seen: tuple[Any, ...] = (
                ...,
                *(
                    slice(p * d, p * d + s * (n - 1) + 1, s)
                    for p, d, s, n in zip(position, self.dilation, self.stride, floor.shape[-spatial:], strict=True)
                ),
            )
            total[seen] += counts(padded[seen], floor).to(z.dtype)
        inside: tuple[Any, ...] = tuple(
            slice(b, b + n) for (b, _), n in zip(self.padding, z.shape[-spatial:], strict=True)
        )
        return total[(..., *inside)]


@from_onnx("MaxPool")
def read_max_pool(call: Call) -> Node:
    if call.outputs > 1:
        call.refuse("the positions of the largest values are used, which jump; use its values only")
    node = image(call)
    sizes = node.shape[1:]
    windows = read_windows(call, sizes, call.integers("kernel_shape") or ())
    if str(call.attributes.get("auto_pad", "")).startswith("SAME") and any(d > 1 for d in windows.dilation):
        call.refuse("pads by auto_pad with dilations, which runtimes do in different ways; write the pads out")
    padding = rounded_up(sizes, windows) if call.attributes.get("ceil_mode", 0) else windows.padding
    check_windows(call, node.shape, replace(windows, padding=padding))
    check_zeros(call, node, windows, largest=True)
    return foreign(call, apply(MaxPool(windows.kernel, windows.stride, padding, windows.dilation), node))


def check_windows(call: Call, shape: Shape, windows: Windows) -> None:
    """Nothing, where every window sees a real entry. shape: `[channels, *spatial]`; refuses where one does not."""
    sizes = shape[1:]
    if shape[0] * math.prod(n + sum(p) for n, p in zip(sizes, windows.padding, strict=True)) > LARGEST_VALUE:
        call.refuse(f"pads {shape} by {windows.padding}, which is more than llcert can hold")
    for i, (size, (before, after)) in enumerate(zip(sizes, windows.padding, strict=True)):
        kernel, dilation = windows.kernel[i], windows.dilation[i]
        starts = torch.arange(0, size + before + after - windows.reach[i] + 1, windows.stride[i]) - before
        skipped = (-starts).clamp(min=0).add(dilation - 1) // dilation
        if not bool(((skipped < kernel) & (starts + skipped * dilation < size)).all()):
            call.refuse(f"a window of {kernel} sees nothing but padding {(before, after)}")


@from_onnx("GlobalMaxPool")
def read_global_max_pool(call: Call) -> Node:
    node = image(call)
    sizes = node.shape[1:]
    if len(sizes) not in (1, 2):
        call.refuse(f"pools over {len(sizes)} axes; llcert knows one and two")
    ones, none = (1,) * len(sizes), ((0, 0),) * len(sizes)
    return foreign(call, apply(MaxPool(sizes, ones, none, ones), node))


@from_torch_op("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool1d_with_indices")
def read_torch_max_pool(call: Call) -> Node | tuple[Node, ...]:
    rank = 1 if "1d" in call.kind else 2
    node = torch_image(call, "self", rank)
    windows = torch_windows(call, torch_sizes(call, "kernel_size", rank))
    padding = rounded_up(node.shape[1:], windows) if call.attributes["ceil_mode"] else windows.padding
    check_windows(call, node.shape, replace(windows, padding=padding))
    result = apply(MaxPool(windows.kernel, windows.stride, padding, windows.dilation), node)
    return (result,) if call.kind.endswith("indices") else result


@from_torch_op("adaptive_max_pool1d", "adaptive_max_pool2d")
def read_torch_adaptive_max_pool(call: Call) -> tuple[Node, ...]:
    rank = 1 if "1d" in call.kind else 2
    node, wanted = torch_image(call, "self", rank), torch_sizes(call, "output_size", rank)
    if any(w < 1 or n % w for n, w in zip(node.shape[1:], wanted, strict=True)):
        call.refuse(
            f"pools {node.shape} to {wanted}, which does not divide it; use max_pool with a kernel and a stride"
        )
    kernel = tuple(n // w for n, w in zip(node.shape[1:], wanted, strict=True))
    return (apply(MaxPool(kernel, kernel, ((0, 0),) * rank, (1,) * rank), node),)


@to_onnx(MaxPool)
def write_max_pool(op: MaxPool, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    before, after = zip(*op.padding, strict=True)
    return builder.add(
        "MaxPool",
        inputs,
        name=node.name,
        kernel_shape=list(op.kernel),
        strides=list(op.stride),
        pads=[*before, *after],
        dilations=list(op.dilation),
    )
