"""Windows that slide over the last axes: how ONNX spells their padding, shared by convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llcert.ir import Node, Shape, apply
from llcert.ops.movement import reshaped
from llcert.ops.pad import Pad
from llcert.ops.registry import Call

Widths = tuple[tuple[int, int], ...]
"""Padding (before, after) of each pooled or convolved axis."""


@dataclass(frozen=True)
class Windows:
    """Where windows lie: one number, or pair of paddings, for each spatial axis."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: Widths

    @property
    def reach(self) -> Shape:
        """Entries from the first to the last that one window sees."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def read_windows(call: Call, sizes: Shape, kernel: Shape) -> Windows:
    """The windows a convolution or pool describes by its attributes. sizes: of the axes they slide over."""
    unpadded = read_unpadded(call, sizes, kernel)
    return replace(unpadded, padding=_padding(call, sizes, unpadded))


def read_unpadded(call: Call, sizes: Shape, kernel: Shape) -> Windows:
    """The windows as described, padding left out."""
    rank = len(sizes)
    if rank not in (1, 2):
        call.refuse(f"slides over {rank} axes; llcert knows one and two")
    stride = _positive(call, "strides", rank)
    dilation = _positive(call, "dilations", rank)
    if len(kernel) != rank or min(kernel) < 1:
        call.refuse(f"a kernel of shape {kernel} does not fit {rank} axes")
    return Windows(kernel, stride, dilation, ((0, 0),) * rank)


def image(call: Call, index: int = 0) -> Node:
    """An image-dependent input as `[channels, *spatial]`, also in files without a batch axis of their own."""
    node = call.node(index)
    if not call.batched:
        if not node.shape or node.shape[0] != 1:
            call.refuse(f"its input {node.shape} has a batch size baked in; export with batch 1 or a free batch axis")
        node = reshaped(node, node.shape[1:])
    if len(node.shape) < 1:
        call.refuse("its input has no channel axis")
    return node


def foreign(call: Call, node: Node) -> Node:
    """The result of an operator on `image(call)`, with the batch axis of one where the file has it as its own."""
    return node if call.batched else reshaped(node, (1, *node.shape))


def torch_image(call: Call, name: str, spatial: int) -> Node:
    """An image-dependent input of torch as `[channels, *spatial]`; refuses images without batch axis."""
    node = call.node(name)
    if spatial not in (1, 2) or len(node.shape) != spatial + 1:
        call.refuse(f"slides over {spatial} axes of a value of shape {node.shape} (without batch axis)")
    return node


def torch_sizes(call: Call, name: str, rank: int) -> Shape:
    """One number for each axis; torch also allows one for all."""
    values = call.integers(name) or ()
    values = values * rank if len(values) == 1 else values
    if len(values) != rank or min(values) < 0:
        call.refuse(f"{name} {values} does not fit {rank} axes")
    return values


def torch_windows(call: Call, kernel: Shape) -> Windows:
    """The windows of a convolution or pool of torch; a stride left out is the kernel, padding words are not read."""
    rank = len(kernel)
    stride = torch_sizes(call, "stride", rank) if call.integers("stride") else kernel
    dilation = torch_sizes(call, "dilation", rank) if "dilation" in call.attributes else (1,) * rank
    spelled = isinstance(call.attributes["padding"], str)
    padding = (0,) * rank if spelled else torch_sizes(call, "padding", rank)
    if min((*kernel, *stride, *dilation), default=0) < 1:
        call.refuse(f"kernel {kernel}, stride {stride} and dilation {dilation} must be positive")
    return Windows(kernel, stride, dilation, tuple((p, p) for p in padding))


def zero_padded(node: Node, padding: Widths, *, value: float = 0.0) -> Node:
    """The value padded along its last axes, where there is anything to pad."""
    if not any(before or after for before, after in padding):
        return node
    return apply(Pad(((0, 0),) * (len(node.shape) - len(padding)) + padding, value), node)


def rounded_up(sizes: Shape, windows: Windows) -> Widths:
    """The padding that gives `ceil_mode` its last windows; none that would start behind the padded input."""
    widths = []
    for size, reach, stride, (before, after) in zip(sizes, windows.reach, windows.stride, windows.padding, strict=True):
        count = -(-(size + before + after - reach) // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        extra = (count - 1) * stride + reach - (size + before + after)
        widths.append((before, after + max(extra, 0)))
    return tuple(widths)


def _positive(call: Call, name: str, rank: int) -> Shape:
    values = call.integers(name) or (1,) * rank
    if len(values) != rank or min(values) < 1:
        call.refuse(f"{name} {values} does not fit {rank} axes")
    return values


def _padding(call: Call, sizes: Shape, windows: Windows) -> Widths:
    rank = len(sizes)
    mode = call.attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return paired(call, call.integers("pads") or (0,) * (2 * rank), rank)
    if mode == "VALID":
        return ((0, 0),) * rank
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        call.refuse(f"auto_pad {mode!r} is not one of NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    return tuple(
        _same(size, reach, stride, extra_first=mode == "SAME_LOWER")
        for size, reach, stride in zip(sizes, windows.reach, windows.stride, strict=True)
    )


def paired(call: Call, pads: Sequence[int], rank: int) -> Widths:
    """ONNX pads, all begins before all ends, as (before, after) pairs; refuses negative ones."""
    if len(pads) != 2 * rank or min(pads, default=0) < 0:
        call.refuse(f"pads {tuple(pads)} does not fit {rank} axes")
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def _same(size: int, reach: int, stride: int, *, extra_first: bool) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    less, more = total // 2, total - total // 2
    return (more, less) if extra_first else (less, more)
