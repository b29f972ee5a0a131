"""Some entries along one axis: slices, splits, gathers with known indices, repetitions, permutations."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LONGEST_AXIS, Node, Shape, apply
from llcert.ir.batch_size import Size
from llcert.ops.movement import Movement, reshaped
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx


@dataclass(frozen=True)
class Take(Movement):
    """Some entries along one axis, in the order given: slices, splits, gathers with known indices, permutations.

    indices: non-negative.
    """

    axis: int
    indices: Shape

    @property
    def is_scaled_permutation(self) -> bool:
        return len(set(self.indices)) == len(self.indices)

    @property
    def slice(self) -> slice | None:
        """The same choice as a slice with positive step, where there is one."""
        first, count = self.indices[0], len(self.indices)
        step = self.indices[1] - first if count > 1 else 1
        regular = step > 0 and all(b - a == step for a, b in zip(self.indices, self.indices[1:], strict=False))
        return slice(first, self.indices[-1] + 1, step) if regular else None

    def linear(self, x: Tensor) -> Tensor:
        regular = self.slice
        if regular is not None:
            return x[(slice(None),) * (self.axis + 1) + (regular,)]
        return x.index_select(self.axis + 1, torch.tensor(self.indices, device=x.device))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        x = torch.zeros(y.shape[0], *shape, dtype=y.dtype, device=y.device)
        regular = self.slice
        if regular is not None:
            x[(slice(None),) * (self.axis + 1) + (regular,)] = y
            return x
        return x.index_add(self.axis + 1, torch.tensor(self.indices, device=y.device), y)


def taken(node: Node, axis: int, indices: Sequence[int]) -> Node:
    """Some entries along one axis; the node itself where these are all, in order. Negative indices count back."""
    size = node.shape[axis]
    if not all(-size <= i < size for i in indices):
        raise IndexError(f"index out of range for an axis of {size}")
    if len(indices) == size and all(i % size == k for k, i in enumerate(indices)):
        return node
    return apply(Take(axis, tuple(i % size for i in indices)), node)


@from_onnx("Slice")
def read_slice(call: Call) -> Node:
    node = call.node(0)
    starts, ends = call.integers("starts", 1), call.sizes("ends", 2)
    if starts is None or ends is None:
        call.refuse("has no starts or no ends")
    axes = call.integers("axes", 3) or tuple(range(len(starts)))
    steps = call.integers("steps", 4) or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        call.refuse("its starts, ends, axes and steps do not fit together")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if _keeps_batch(call, node, axis, start, end, step):
            continue
        ours, end = call.axis(axis, len(node.shape)), operator.index(end)
        size = node.shape[ours]
        # one past the front, the only way to say "down to the first entry", is -size - 1 in files and None in Python
        stop = None if step < 0 and end < -size else end
        chosen = range(*slice(start, stop, step).indices(size))
        if not chosen:
            call.refuse(f"takes no entry of an axis of {size}")
        node = taken(node, ours, chosen)
    return node


_ENDLESS = 2**31 - 1
"""The end of a slice that takes all the rest, at least; no batch is that large."""


def _keeps_batch(call: Call, node: Node, axis: int, start: int, end: Size, step: int) -> bool:
    """Whether a slice works along the batch axis and takes all of it."""
    if not call.batched or axis not in (0, -len(node.shape) - 1) or start != 0 or step != 1:
        return False
    return call.is_batch(end) or (isinstance(end, int) and end >= _ENDLESS)


@from_onnx("Split")
def read_split(call: Call) -> tuple[Node, ...]:
    node = call.node(0)
    axis = call.axis(int(call.attributes.get("axis", 0)), len(node.shape))
    size = node.shape[axis]
    lengths = call.integers("split", 1)
    if lengths is None:
        parts = int(call.attributes.get("num_outputs", call.outputs))
        if not 1 <= parts <= size:
            call.refuse(f"splits an axis of {size} into {parts}")
        length = -(-size // parts)
        lengths = (*(length,) * (parts - 1), size - length * (parts - 1))
    if min(lengths, default=0) < 1 or sum(lengths) != size or len(lengths) < call.outputs:
        call.refuse(f"splits an axis of {size} into {len(lengths)} parts of {_few(lengths)}")
    return _parts(node, axis, lengths[: call.outputs])


def _few(lengths: Sequence[int]) -> str:
    """A list for a message."""
    return ", ".join(map(str, lengths[:8])) + (", ..." if len(lengths) > 8 else "")


def _parts(node: Node, axis: int, lengths: Sequence[int]) -> tuple[Node, ...]:
    """Parts of an axis one behind the other."""
    ends = itertools.accumulate(lengths)
    return tuple(taken(node, axis, range(end - n, end)) for n, end in zip(lengths, ends, strict=True))


@from_onnx("Gather")
def read_gather(call: Call) -> Node:
    node, indices = call.node(0), call.required(1)
    axis = call.axis(int(call.attributes.get("axis", 0)), len(node.shape))
    chosen = taken(node, axis, indices.flatten().tolist())
    return reshaped(chosen, (*node.shape[:axis], *indices.shape, *node.shape[axis + 1 :]))


@from_onnx("Tile")
def read_tile(call: Call) -> Node:
    node, repeats = call.node(0), call.integers("repeats", 1)
    if repeats is None or len(repeats) != len(node.shape) + call.batched or min(repeats) < 1:
        call.refuse(f"repeats {repeats} does not fit a value of shape {node.shape}")
    if call.batched and repeats[0] != 1:
        call.refuse("repeats images along the batch axis")
    for axis, count in enumerate(repeats[call.batched :]):
        if count * node.shape[axis] > LONGEST_AXIS:
            call.refuse(f"repeats an axis of {node.shape[axis]} {count} times")
        node = taken(node, axis, list(range(node.shape[axis])) * count)
    return node


@from_torch_op("slice", "narrow")
def read_torch_slice(call: Call) -> Node:
    node, start, axis = call.node("self"), call.attributes["start"], int(call.attributes["dim"])
    start, step = (0 if start is None else int(start)), int(call.attributes.get("step", 1))
    end: Size | None = call.attributes.get("length" if call.kind == "narrow" else "end")
    end = _ENDLESS if end is None else end if call.kind == "slice" else end + start
    if _keeps_batch(call, node, axis, start, end, step):
        return node
    ours, end = call.axis(axis, len(node.shape)), operator.index(end)
    chosen = range(*slice(start, end, step).indices(node.shape[ours]))
    if not chosen:
        call.refuse(f"takes no entry of an axis of {node.shape[ours]}")
    return taken(node, ours, chosen)


@from_torch_op("select")
def read_torch_select(call: Call) -> Node:
    node = call.node("self")
    axis = call.axis(int(call.attributes["dim"]), len(node.shape))
    return _without(taken(node, axis, (int(call.attributes["index"]),)), axis)


@from_torch_op("unbind")
def read_torch_unbind(call: Call) -> tuple[Node, ...]:
    node = call.node("self")
    axis = call.axis(int(call.attributes["dim"]), len(node.shape))
    return tuple(_without(taken(node, axis, (i,)), axis) for i in range(node.shape[axis]))


def _without(node: Node, axis: int) -> Node:
    """The value without an axis of size one."""
    return reshaped(node, (*node.shape[:axis], *node.shape[axis + 1 :]))


@from_torch_op("split", "split_with_sizes", "chunk")
def read_torch_split(call: Call) -> tuple[Node, ...]:
    node = call.node("self")
    axis = call.axis(int(call.attributes["dim"]), len(node.shape))
    size = node.shape[axis]
    lengths = call.integers("split_sizes") or call.integers("split_size")
    if lengths is None or call.kind == "chunk":
        lengths = (-(-size // int(call.attributes["chunks"])),)
    if not isinstance(call.attributes.get("split_size", call.attributes.get("split_sizes", 0)), Sequence):
        lengths = tuple(min(lengths[0], size - start) for start in range(0, size, lengths[0]))
    return _parts(node, axis, lengths)


@from_torch_op("index_select")
def read_torch_index_select(call: Call) -> Node:
    node = call.node("self")
    axis = call.axis(int(call.attributes["dim"]), len(node.shape))
    return taken(node, axis, call.required("index").flatten().tolist())


@from_torch_op("index")
def read_torch_index(call: Call) -> Node:
    """`x[:, indices]` with one known list of indices, or mask, along one axis."""
    node, indices = call.node("self"), call.attributes["indices"]
    named = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(named) != 1 or not isinstance(named[0][1], Tensor) or named[0][1].ndim != 1:
        call.refuse("indexes several axes at once, or by a value of the image; index one axis by constants")
    axis, index = call.axis(named[0][0], len(node.shape)), named[0][1]
    return taken(node, axis, (index.nonzero().flatten() if index.dtype == torch.bool else index).tolist())


@from_torch_op("flip")
def read_torch_flip(call: Call) -> Node:
    node = call.node("self")
    for axis in sorted({call.axis(a, len(node.shape)) for a in call.integers("dims") or ()}):
        node = taken(node, axis, range(node.shape[axis] - 1, -1, -1))
    return node


@from_torch_op("roll")
def read_torch_roll(call: Call) -> Node:
    node, shifts, axes = call.node("self"), call.integers("shifts") or (), call.integers("dims") or ()
    if len(shifts) != len(axes):
        call.refuse("rolls the flattened batch; name the axes")
    for shift, foreign in zip(shifts, axes, strict=True):
        axis = call.axis(foreign, len(node.shape))
        size = node.shape[axis]
        node = taken(node, axis, [(i - shift) % size for i in range(size)])
    return node


@from_torch_op("repeat")
def read_torch_repeat(call: Call) -> Node:
    node, repeats = call.node("self"), call.integers("repeats") or ()
    if len(repeats) != len(node.shape) + 1 or repeats[0] != 1:
        call.refuse(f"repeats {repeats} does not fit a value of shape {node.shape}, or repeats images")
    for axis, count in enumerate(repeats[1:]):
        if not 1 <= count * node.shape[axis] <= LONGEST_AXIS:
            call.refuse(f"repeats an axis of {node.shape[axis]} {count} times")
        node = taken(node, axis, list(range(node.shape[axis])) * count)
    return node


@to_onnx(Take)
def write_take(op: Take, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    regular = op.slice
    if regular is None:
        indices = builder.constant(torch.tensor(op.indices))
        return builder.add("Gather", [*inputs, indices], name=node.name, axis=op.axis + 1)
    bounds = (regular.start, regular.stop, op.axis + 1, regular.step)
    return builder.add("Slice", [*inputs, *(builder.constant(torch.tensor([b])) for b in bounds)], name=node.name)
