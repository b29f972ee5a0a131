"""Padding: with a constant, or with entries of the value itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LONGEST_AXIS, LinearOp, Node, Shape, apply, number
from llcert.ops.movement import multiple
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx
from llcert.ops.take import taken


@dataclass(frozen=True)
class Pad(LinearOp):
    """Constant padding. widths: (before, after) for each axis, non-negative; value: finite."""

    widths: tuple[tuple[int, int], ...]
    value: float = 0.0
    is_scaled_permutation = True

    @property
    def roundings(self) -> int:
        """One where float32 does not hold the value, so that a runtime rounds it."""
        return 0 if float(torch.tensor(self.value, dtype=torch.float32)) == self.value else 1

    @property
    def copies(self) -> bool:
        return self.roundings == 0

    def linear(self, x: Tensor) -> Tensor:
        return F.pad(x, self._torch_widths)

    def __call__(self, *values: Tensor) -> Tensor:
        (x,) = values
        return F.pad(x, self._torch_widths, value=self.value)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return multiple(Pad(self.widths), number(entrywise, 1.0))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        inside = (slice(before, before + n) for (before, _), n in zip(self.widths, shape, strict=True))
        return y[(slice(None), *inside)]

    @property
    def _torch_widths(self) -> list[int]:
        return [width for pair in reversed(self.widths) for width in pair]


@from_onnx("Pad")
def read_pad(call: Call) -> Node:
    node, pads = call.node(0), call.integers("pads", 1)
    if pads is None:
        call.refuse("has no pads")
    rank = len(node.shape) + call.batched
    axes = call.integers("axes", 3) or tuple(range(rank))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        call.refuse(f"pads {pads} does not fit axes {axes}")
    widths = [(0, 0)] * len(node.shape)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before or after:
            widths[call.axis(axis, len(node.shape))] = (before, after)
    value = call.attributes.get("value", 0.0) if call.version < 11 else call.constant(2)
    mode = call.attributes.get("mode", "constant")
    return cut_or_padded(call, node, widths, mode=mode, value=0.0 if value is None else float(value))


_TORCH_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
_NAMED_MODES = {"reflection": "reflect", "replication": "edge"}


@from_torch_op(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"
)
def read_torch_pad(call: Call) -> Node:
    node, pads = call.node("self"), call.integers("pad") or call.integers("padding") or ()
    widths = [(before, after) for before, after in zip(pads[::2], pads[1::2], strict=True)][::-1]
    if len(widths) > len(node.shape):
        call.refuse("pads along the batch axis; a certificate looks at one image at a time")
    named = _NAMED_MODES.get(call.kind.split("_")[0])
    mode = named or _TORCH_MODES.get(call.attributes.get("mode", "constant"), "")
    given = call.attributes.get("value")
    value = torch.tensor(0.0 if given is None else float(given), dtype=node.dtype)  # rounded as torch rounds it
    missing = [(0, 0)] * (len(node.shape) - len(widths))
    return cut_or_padded(call, node, missing + widths, mode=mode, value=float(value))


def cut_or_padded(call: Call, node: Node, widths: Sequence[tuple[int, int]], *, mode: str, value: float) -> Node:
    """The value padded along each axis by (before, after); where these are negative, cut."""
    for axis, (before, after) in enumerate(widths):
        if before < 0 or after < 0:
            node = taken(node, axis, range(max(-before, 0), node.shape[axis] + min(after, 0)))
    kept = tuple((max(before, 0), max(after, 0)) for before, after in widths)
    return padded(call, node, kept, mode=mode, value=value)


def padded(call: Call, node: Node, widths: Sequence[tuple[int, int]], *, mode: str, value: float) -> Node:
    """The value padded along each axis by (before, after), with a constant or with its own entries."""
    if not any(before or after for before, after in widths):
        return node
    if mode == "constant":
        if not math.isfinite(value):
            call.refuse(f"pads with {value}; only a finite number has a bound")
        return apply(Pad(tuple(widths), value), node)
    for axis, (before, after) in enumerate(widths):
        node = taken(node, axis, _repeating(call, node.shape[axis], before, after, mode))
    return node


def _repeating(call: Call, size: int, before: int, after: int, mode: str) -> list[int]:
    """Which entries of an axis a padding that repeats them shows, in order."""
    positions = range(-before, size + after)
    if len(positions) > LONGEST_AXIS:
        call.refuse(f"pads an axis of {size} to {len(positions)}")
    period = max(2 * size - 2, 1)
    modes: dict[str, Callable[[int], int]] = {
        "edge": lambda i: min(max(i, 0), size - 1),
        "wrap": lambda i: i % size,
        "reflect": lambda i: min(i % period, -i % period),
    }
    if mode not in modes:
        call.refuse(f"pad mode {mode!r} is unknown; constant, edge, reflect and wrap are supported")
    return [modes[mode](i) for i in positions]


@to_onnx(Pad)
def write_pad(op: Pad, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    before, after = ([0, *side] for side in zip(*op.widths, strict=True))
    pads = builder.constant(torch.tensor([*before, *after]))
    return builder.add("Pad", [*inputs, pads, builder.number(op.value)], name=node.name)
