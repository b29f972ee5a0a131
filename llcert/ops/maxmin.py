"""MaxMin, plain and clipped: a pair of values is replaced by its larger and its smaller one; sorts of larger groups
(docs/method.md, Propositions 4.4 and 9.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.domain.relaxation import Piecewise, Relaxation, Zone
from llcert.ir import Activation, LoopTransform, Node, Op, Shape, apply, permuted
from llcert.numerics.gradients import maximum, minimum, sorted_pairs
from llcert.numerics.tensors import length
from llcert.ops.affine import Affine, slopes_between
from llcert.ops.clamp import bounds
from llcert.ops.maxpool import MaxPool
from llcert.ops.movement import reshaped
from llcert.ops.pairs import PairMix, merge_pairs, split_pairs
from llcert.ops.registry import Call, OnnxBuilder, batched_shape, from_onnx, from_torch_op, to_onnx
from llcert.ops.take import taken


@dataclass(frozen=True)
class MaxMin(Activation):
    """`min(max(a, b), high)` and `max(min(a, b), low)` for every pair (a, b) along one axis.

    pairs: False: a is the first half of the axis and b the second, maxima come first and minima second; True: a and b
    are neighbours, (max, min) takes their places. high, low: thresholds broadcastable to the shape of the maxima
    (`pairs`: to half the axis), pre-activation units; None for none. A pair's map is nonexpansive.
    """

    axis: int = 0
    pairs: bool = False
    high: Tensor | None = None
    low: Tensor | None = None
    roundings = 0
    increasing = True
    slope_roundings = 0

    def __call__(self, *values: Tensor) -> Tensor:
        if self.high is None and self.low is None and not self.pairs:
            return sorted_pairs(values[0], self.axis + 1)
        a, b = self.split(values[0])
        largest, smallest = maximum(a, b), minimum(a, b)
        if self.high is not None:
            largest = minimum(largest, self.high)
        if self.low is not None:
            smallest = maximum(smallest, self.low)
        return self.merge(largest, smallest)

    @property
    def label(self) -> str:
        return "MaxMin" if self.high is None and self.low is None else "clipped MaxMin"

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the second of every pair, each `[batch, ..., channels / 2, ...]`."""
        return split_pairs(z, self.axis, self.pairs)

    def merge(self, first: Tensor, second: Tensor) -> Tensor:
        """The inverse of `split`."""
        return merge_pairs(first, second, self.axis, self.pairs)

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        """The maximum is constant once both or either lower bound passes `high`, the minimum likewise at `low`."""
        (lower_a, lower_b), (upper_a, upper_b) = self.split(z.lower), self.split(z.upper)
        largest, smallest = torch.maximum(lower_a, lower_b), torch.minimum(upper_a, upper_b)
        never = torch.full_like(largest, torch.inf)
        top = never if self.high is None else self.high - largest
        bottom = never if self.low is None else smallest - self.low
        return (self.merge(top, bottom),)

    def slope(self, z: Region) -> Tensor:
        """Zero where everything a value can reach is constant: both outputs, or its own where the order is fixed."""
        (lower_a, lower_b), (upper_a, upper_b) = self.split(z.lower), self.split(z.upper)
        largest, smallest = self.split(self.varying(z))
        a_first, b_first = lower_a >= upper_b, lower_b >= upper_a
        either = largest | smallest
        a = torch.where(a_first, largest, torch.where(b_first, smallest, either))
        b = torch.where(a_first, smallest, torch.where(b_first, largest, either))
        return self.merge(a, b).to(z.centre.dtype)

    def loop_transforms(self, shape: Shape, like: Tensor) -> tuple[LoopTransform, ...]:
        """Sorting, `C (a, b)` the mean of both and `F (a, b)` half of their difference; then, if there are thresholds,
        clipping, with slopes in [0, 1] at the clipped entries (docs/method.md, Proposition 6.2)."""
        mean, half = (PairMix(self.axis, self.pairs, 0.5, other) for other in (0.5, -0.5))
        sorting = LoopTransform(mean, half)
        if self.high is None and self.low is None:
            return (sorting,)
        one = self.split(like.new_ones(1, *shape))[0]
        least = self.merge(*(one * (t is None) for t in (self.high, self.low)))[0]
        return sorting, slopes_between(least, torch.ones_like(least))

    def relaxations(self, zone: Zone) -> tuple[Relaxation, ...]:
        """Sorting, by `max, min = (a + b) / 2 +- |a - b| / 2`; then, if there are thresholds, clipping."""
        sort = self._sorting(zone)
        return (sort,) if self.high is None and self.low is None else (sort, self._clipping(zone))

    def _sorting(self, zone: Zone) -> Relaxation:
        """`|t|` for `t = a - b`. A ball around (a, b) holds t / sqrt 2 too: the rotation keeps lengths."""
        pairs = (self.split(x) for x in (zone.centre, zone.lower, zone.upper, zone.weights))
        (centre_a, centre_b), (lower_a, lower_b), (upper_a, upper_b), (weight_a, weight_b) = pairs
        centre, rounding = centre_a - centre_b, torch.finfo(zone.centre.dtype).eps
        lower, upper = _outwards(lower_a - upper_b, -1), _outwards(upper_a - lower_b, 1)
        weights = torch.minimum(weight_a, weight_b) * (2**-0.5 * (1 - 2 * rounding))
        radius = (zone.radius + rounding * length(weights * centre)) * (1 + 8 * rounding)
        lower, upper = torch.minimum(lower, centre), torch.maximum(upper, centre)
        distance = Zone(centre, lower, upper, weights, radius)
        one = torch.ones(())
        return Relaxation(Piecewise(torch.abs, (torch.zeros(()),), (-one, one)), distance, self._enter, self._leave)

    def _enter(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows for max and min -> rows for |t|, and those for both a and b that pass it by."""
        (largest, smallest), (images, count) = self.split(rows.flatten(0, 1)), rows.shape[:2]
        differing, shared = (largest - smallest) / 2, (largest + smallest) / 2
        return differing.unflatten(0, (images, count)), shared.unflatten(0, (images, count))

    def _leave(self, rows: Tensor, shared: Tensor | None) -> Tensor:
        """Rows for t, and those that passed by -> rows for a and b."""
        assert shared is not None
        return self.merge((shared + rows).flatten(0, 1), (shared - rows).flatten(0, 1)).unflatten(0, rows.shape[:2])

    def _clipping(self, zone: Zone) -> Relaxation:
        """Each of a sorted pair by itself. Sorting is nonexpansive, and moves nothing where the order is fixed."""
        (lower_a, lower_b), (upper_a, upper_b) = self.split(zone.lower), self.split(zone.upper)
        weight_a, weight_b = self.split(zone.weights)
        both, a_first, b_first = torch.minimum(weight_a, weight_b), lower_a >= upper_b, lower_b >= upper_a
        largest = torch.where(a_first, weight_a, torch.where(b_first, weight_b, both))
        smallest = torch.where(a_first, weight_b, torch.where(b_first, weight_a, both))
        ordered = replace(self, high=None, low=None)
        centre, lower, upper = (ordered(x) for x in (zone.centre, zone.lower, zone.upper))
        like = torch.full_like(lower_a[:1], torch.inf)
        low = self.merge(-like, like * -1 if self.low is None else self.low.expand_as(like))[0]
        high = self.merge(like if self.high is None else self.high.expand_as(like), like)[0]
        zero, one = torch.zeros(()), torch.ones(())
        clip = Piecewise(lambda z: torch.minimum(torch.maximum(z, low), high), (low, high), (zero, one, zero))
        return Relaxation(clip, Zone(centre, lower, upper, self.merge(largest, smallest), zone.radius))

    def commuted(self, order: Shape) -> Op | None:
        return permuted(self, order, axis=order[self.axis])

    def described(self, shape: Shape) -> tuple[str, dict[str, Tensor]]:
        first, second = self.split(torch.arange(math.prod(shape)).reshape(1, *shape))
        low, high = bounds(self.low, self.high, tuple(first.shape[1:]))
        return "maxmin", {"first": first, "second": second, "low": low, "high": high}

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.ones(())


def _outwards(x: Tensor, direction: int) -> Tensor:
    """The next floating-point number on one side."""
    return torch.nextafter(x, x.new_full((), direction * torch.inf))


@dataclass(frozen=True)
class GroupSort(Activation):
    """Neighbours along one axis sorted in groups of `size`: nonexpansive (Anil et al. 2019)."""

    axis: int
    size: int
    descending: bool = False
    roundings = 0
    increasing = True
    slope_roundings = 0

    def __call__(self, *values: Tensor) -> Tensor:
        groups = values[0].unflatten(self.axis + 1, (-1, self.size))
        ordered = groups.sort(self.axis + 2, descending=self.descending).values
        return ordered.flatten(self.axis + 1, self.axis + 2)

    @property
    def label(self) -> str:
        return f"GroupSort({self.size})"

    def commuted(self, order: Shape) -> Op | None:
        return permuted(self, order, axis=order[self.axis])

    def slope(self, z: Region) -> Tensor:
        return torch.ones_like(z.centre)

    def described(self, shape: Shape) -> tuple[str, dict[str, Tensor]] | None:
        """Sorted pairs are a MaxMin without thresholds; a certificate has no words for larger groups."""
        if self.size != 2:
            return None
        pairs = torch.arange(math.prod(shape)).reshape(shape).unflatten(self.axis, (-1, 2))
        first, second = pairs.unbind(self.axis + 1)
        if not self.descending:
            first, second = second, first
        low, high = bounds(None, None, tuple(first.shape))
        return "maxmin", {"first": first, "second": second, "low": low, "high": high}

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class Extreme(Op):
    """The elementwise maximum or minimum of two values: what files say; passes turn it into halves of a MaxMin."""

    largest: bool

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.maximum(*values) if self.largest else torch.minimum(*values)


@from_onnx("ReduceMax", "ReduceMin")
def read_reduction(call: Call) -> Node:
    node, axes = call.node(0), call.integers("axes", 1)
    if not axes:
        call.refuse("reduces over all axes, the batch too; name the axes")
    ours = sorted({call.axis(a, len(node.shape)) for a in axes})
    result = reduced(call, node, ours, largest=call.kind == "ReduceMax")
    kept = call.attributes.get("keepdims", 1)
    return reshaped(result, tuple(1 if i in ours else n for i, n in enumerate(node.shape) if kept or i not in ours))


def reduced(call: Call, node: Node, axes: Sequence[int], *, largest: bool) -> Node:
    """The maximum or minimum over neighbouring axes, entries in order: by two values, a MaxPool, or a sort."""
    first, last = axes[0], axes[-1]
    if list(axes) != list(range(first, last + 1)):
        call.refuse(f"reduces over axes {tuple(axes)}, which are not neighbours")
    size = math.prod(node.shape[first : last + 1])
    line = reshaped(node, (*node.shape[:first], size, *node.shape[last + 1 :]))
    if size == 1:
        return line
    if size == 2:
        return apply(Extreme(largest), taken(line, first, (0,)), taken(line, first, (1,)))
    if last == len(node.shape) - 1:
        return _end_of_lines(reshaped(line, (math.prod(line.shape[:-1]), size)), largest=largest)
    return taken(apply(GroupSort(first, size, descending=largest), line), first, (0,))


def _end_of_lines(lines: Node, *, largest: bool) -> Node:
    """The maximum or minimum of each row of a matrix."""
    pool = MaxPool(lines.shape[1:], (1,), ((0, 0),), (1,))
    if largest:
        return apply(pool, lines)
    minus = Affine(scale=torch.tensor(-1.0))
    return apply(minus, apply(pool, apply(minus, lines)))


@from_torch_op("amax", "amin")
def read_torch_reduction(call: Call) -> Node:
    axes = call.integers("dim")
    if not axes:
        call.refuse("looks at all images of the batch at once; name the axes")
    return torch_reduced(call, axes, largest=call.kind == "amax")


def torch_reduced(call: Call, axes: Sequence[int], *, largest: bool) -> Node:
    """The maximum or minimum over the named axes of torch."""
    node = call.node("self")
    ours = sorted({call.axis(a, len(node.shape)) for a in axes})
    result, keep = reduced(call, node, ours, largest=largest), call.attributes["keepdim"]
    return reshaped(result, tuple(1 if i in ours else n for i, n in enumerate(node.shape) if keep or i not in ours))


@from_torch_op("sort", "msort", "topk")
def read_torch_sort(call: Call) -> Node | tuple[Node, ...]:
    """The values of a sort, the first of two results."""
    node = call.node("self")
    axis = call.axis(int(call.attributes.get("dim", 0)), len(node.shape))
    size = node.shape[axis]
    descending = bool(call.attributes.get("descending", call.attributes.get("largest", False)))
    count = int(call.attributes.get("k", size))
    if not 1 <= count <= size or (count > 1 and not call.attributes.get("sorted", True)):
        call.refuse(f"takes {count} of {size} values, or in no stated order (sorted=False)")
    return (taken(apply(GroupSort(axis, size, descending), node), axis, range(count)),)


@from_onnx("TopK")
def read_top_k(call: Call) -> Node:
    if call.outputs > 1:
        call.refuse("the positions of the largest values are used, which jump; use its values only")
    node, counts = call.node(0), call.integers("k", 1)
    axis = call.axis(int(call.attributes.get("axis", -1)), len(node.shape))
    size = node.shape[axis]
    if counts is None or len(counts) != 1 or not 1 <= counts[0] <= size:
        call.refuse(f"takes {counts} of {size} values")
    if not call.attributes.get("sorted", 1) and counts[0] > 1:
        call.refuse("returns its values in no stated order (sorted=0); export with sorted=1")
    descending = bool(call.attributes.get("largest", 1))
    return taken(apply(GroupSort(axis, size, descending), node), axis, range(counts[0]))


@to_onnx(MaxMin)
def write_maxmin(op: MaxMin, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    a, b = _write_pairs(op, builder, inputs, node)
    largest = builder.add("Max", [a, b], name=node.name)
    smallest = builder.add("Min", [a, b], name=node.name)
    if op.high is not None:
        largest = builder.add("Min", [largest, builder.constant(op.high)], name=node.name)
    if op.low is not None:
        smallest = builder.add("Max", [smallest, builder.constant(op.low)], name=node.name)
    if not op.pairs:
        return builder.add("Concat", [largest, smallest], name=node.name, axis=op.axis + 1)
    behind = builder.constant(torch.tensor([op.axis + 2]))
    apart = [builder.add("Unsqueeze", [part, behind], name=node.name) for part in (largest, smallest)]
    neighbours = builder.add("Concat", apart, name=node.name, axis=op.axis + 2)
    return builder.add("Reshape", [neighbours, builder.constant(batched_shape(node.shape))], name=node.name)


def _write_pairs(op: MaxMin, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> tuple[str, str]:
    """The first and the second values of all pairs, by slices."""
    size = node.shape[op.axis]
    bounds = ((0, size, 2), (1, size, 2)) if op.pairs else ((0, size // 2, 1), (size // 2, size, 1))
    first, second = (
        builder.add(
            "Slice",
            [*inputs, *(builder.constant(torch.tensor([n])) for n in (start, end, op.axis + 1, step))],
            name=node.name,
        )
        for start, end, step in bounds
    )
    return first, second


@to_onnx(GroupSort)
def write_group_sort(op: GroupSort, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    """A full TopK along the axis of groups; the second output, their positions, is left out."""
    before, size, after = node.shape[: op.axis], node.shape[op.axis], node.shape[op.axis + 1 :]
    count = builder.constant(torch.tensor([op.size]))
    sort: dict[str, Any] = {"name": node.name, "outputs": 2, "largest": int(op.descending), "sorted": 1}
    if op.size == size:
        return builder.add("TopK", [*inputs, count], axis=op.axis + 1, **sort)
    split = builder.constant(batched_shape((*before, size // op.size, op.size, *after)))
    groups = builder.add("Reshape", [*inputs, split], name=node.name)
    ordered = builder.add("TopK", [groups, count], axis=op.axis + 2, **sort)
    return builder.add("Reshape", [ordered, builder.constant(batched_shape(node.shape))], name=node.name)
