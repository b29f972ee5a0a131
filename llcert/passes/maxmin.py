"""The spellings of MaxMin and GroupSort: maxima and minima of two slices, put side by side again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from llcert.ir import Node, Shape, apply
from llcert.ops import Clamp, Concat, Extreme, GroupSort, MaxMin, Reshape, Take
from llcert.ops.clamp import Spelling
from llcert.passes.constants import on


def pair_of_extremes(node: Node) -> Node | None:
    """Concat(max(x, y), min(x, y)), each maybe clipped, maybe under a new axis -> MaxMin of Concat(x, y).

    Minimum first: the same with its halves exchanged behind.
    """
    match node:
        case Node(op=Concat(axis=axis), inputs=(first, second)):
            pass
        case _:
            return None
    a, b = _Part.of(first), _Part.of(second)
    if a is None or b is None:
        return None
    if a.matches(b):
        return _side_by_side(a, b, axis, node)
    return _halves_exchanged(_side_by_side(b, a, axis, node), axis) if b.matches(a) else None


@dataclass(frozen=True)
class _Part:
    """One half of a MaxMin: an Extreme of two values, its clipping threshold, and the shape it is brought to."""

    largest: bool
    values: tuple[Node, ...]
    threshold: Tensor | None
    within: Shape
    shape: Shape

    @staticmethod
    def of(node: Node) -> _Part | None:
        """The part a node spells; None where it spells none."""
        shape, inner = node.shape, node
        if isinstance(node.op, Reshape):
            (inner,) = node.inputs
        clip: Clamp | None = None
        if isinstance(inner.op, Clamp):
            clip, (inner,) = inner.op, inner.inputs
        if not isinstance(inner.op, Extreme):
            return None
        largest = inner.op.largest
        if clip is not None and (clip.low if largest else clip.high) is not None:
            return None
        if clip is not None and clip.spelling is not Spelling.MINIMUM:  # sums round, and a MaxMin does not
            return None
        threshold = None if clip is None else (clip.high if largest else clip.low)
        return _Part(largest, inner.inputs, threshold, inner.shape, shape)

    def matches(self, other: _Part) -> bool:
        """Whether the two are maximum and minimum of the same values in the same shapes."""
        return (
            self.largest
            and not other.largest
            and set(self.values) == set(other.values)
            and len(self.values) == 2
            and (self.within, self.shape) == (other.within, other.shape)
            and all(v.shape == self.within for v in self.values)
        )


def _side_by_side(largest: _Part, smallest: _Part, axis: int, node: Node) -> Node | None:
    """MaxMin in the shape the thresholds were given in, then the shape of the Concat."""
    high, low, within = largest.threshold, smallest.threshold, largest.within
    if largest.shape == within:
        return apply(MaxMin(axis, False, high, low), apply(Concat(axis), *largest.values), name=node.name)
    if largest.shape == (*within[:axis], 1, *within[axis:]):
        return _under_new_axis(largest, smallest, axis, node)
    if high is None and low is None:
        reshaped = (on(v, Reshape(largest.shape)) for v in largest.values)
        return apply(MaxMin(axis), apply(Concat(axis), *reshaped), name=node.name)
    return None


def _under_new_axis(largest: _Part, smallest: _Part, axis: int, node: Node) -> Node:
    """stack(max, min): neighbours of the axis in front of the new one; halves of the first axis where none is."""
    high, low = largest.threshold, smallest.threshold
    if axis == 0:
        halves = apply(MaxMin(0, False, high, low), apply(Concat(0), *_at_least_a_line(largest.values)))
        return on(halves, Reshape(node.shape), node.name)
    stacked = apply(Concat(axis), *(on(v, Reshape(largest.shape)) for v in largest.values))
    doubled = list(largest.within)
    doubled[axis - 1] *= 2
    pairs = apply(MaxMin(axis - 1, True, high, low), on(stacked, Reshape(tuple(doubled))), name=node.name)
    return on(pairs, Reshape(node.shape))


def _at_least_a_line(values: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(v if v.shape else on(v, Reshape((1,))) for v in values)


def _halves_exchanged(node: Node | None, axis: int) -> Node | None:
    if node is None:
        return None
    size = node.shape[axis]
    return on(node, Take(axis, (*range(size // 2, size), *range(size // 2))))


def neighbours(node: Node) -> Node | None:
    """MaxMin over an axis of two that a Reshape split off -> MaxMin of neighbours on the axis in front of it."""
    match node:
        case Node(op=MaxMin(axis=axis, pairs=False) as op, inputs=(Node(op=Reshape()) as split,)):
            (z,) = split.inputs
            alike = all(threshold.numel() == 1 for threshold in op.tensors().values())
            if alike and axis >= 1 and split.shape[axis] == 2 and z.shape == _merged(split.shape, axis):
                return on(on(z, MaxMin(axis - 1, True, op.high, op.low), node.name), Reshape(node.shape))
    return None


def grouped(node: Node) -> Node | None:
    """A sort along an axis that a Reshape split off -> GroupSort on the axis in front of it."""
    match node:
        case Node(op=GroupSort(axis=axis, size=size) as op, inputs=(Node(op=Reshape()) as split,)):
            (z,) = split.inputs
            if axis >= 1 and split.shape[axis] == size and z.shape == _merged(split.shape, axis):
                return on(on(z, dataclasses.replace(op, axis=axis - 1), node.name), Reshape(node.shape))
    return None


def _merged(shape: Shape, axis: int) -> Shape:
    return (*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :])


def lone_extreme(node: Node) -> Node | None:
    """max(x, y) -> the first half of MaxMin(Concat(x, y)); min(x, y) -> the second."""
    match node:
        case Node(op=Extreme(largest=largest), inputs=(x, y)) if x.shape == y.shape == node.shape:
            lines = _at_least_a_line((x, y))
            both = on(apply(Concat(0), *lines), MaxMin(0))
            half = lines[0].shape[0]
            taken = on(both, Take(0, tuple(range(half) if largest else range(half, 2 * half))), node.name)
            return taken if node.shape else on(taken, Reshape(()))
    return None
