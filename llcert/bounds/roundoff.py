"""What rounding costs, block by block (METHOD, section 8; the lemmas are those of docs/soundness.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.ir import Activation, LinearOp, Node
from llcert.ops import Cast
from llcert.program import Block
from llcert.region import Region, length, spread
from llcert.rounding import DOUBLE, SINGLE, Rounding


@dataclass(frozen=True)
class Roundoff:
    """What an enclosure knows of sizes and errors, for whoever computes with its regions.

    sizes: of each block, upper bounds of `N |h| + |b|` over the regions, N the product of the absolute matrices,
    `[batch, *pre shape]`. totals: their sum over all nodes on the way through the block, and its sources, `[batch]`.
    errors: of each block, bounds of what an evaluation may err in an entry of its value before the activation, float64
    in this proof and the deployed format together. after: likewise of its output.
    All are keyed by the block's node: two activations of one value are two blocks, and each has errors of its own.
    """

    sizes: dict[Node, Tensor] = field(default_factory=dict)
    totals: dict[Node, Tensor] = field(default_factory=dict)
    errors: dict[Node, Tensor] = field(default_factory=dict)
    after: dict[Node, Tensor] = field(default_factory=dict)

    def select(self, images: Tensor) -> Roundoff:
        """Of some images; images: mask or index."""
        parts = (self.sizes, self.totals, self.errors, self.after)
        return Roundoff(*({n: t[images] for n, t in part.items()} for part in parts))


@dataclass(frozen=True)
class Passage:
    """Sizes on the way through a block, rounded up: every sum that an evaluation adds up is at most that.

    sizes: of the sources and of every node of the body, `[batch, *shape]`. A node's size belongs to this block alone:
    another block that passes the same node starts from its own sources and has a passage of its own.
    """

    block: Block
    sizes: Mapping[Node, Tensor]

    @staticmethod
    def of(block: Block, sources: Mapping[Node, Region]) -> Passage:
        """sources: regions of the block's sources."""
        known = {s: largest(r) for s, r in sources.items()}
        for node in block.body:
            if isinstance(node.op, LinearOp):
                size = known[node.inputs[0]]
                value = node.op.transformed(torch.abs).linear(size) + node.op.offset_size(size)
            else:
                value = node.op(*(known[i] for i in node.inputs))
            known[node] = DOUBLE.above(value, block.roundings + 4)
        return Passage(block, known)

    @property
    def size(self) -> Tensor:
        """Of the value before the activation."""
        return self.sizes[self.block.pre]

    @property
    def total(self) -> Tensor:
        """The sum of all sizes, `[batch]`."""
        parts = torch.stack([s.flatten(1).sum(1) for s in self.sizes.values()])
        return DOUBLE.above(parts.sum(0), sum(s[0].numel() for s in self.sizes.values()) + 8)

    def error(self) -> Tensor:
        """Bounds of what float64 errs in each entry, or in an end of its box: interval arithmetic through a node with r
        roundings takes at most 4 r + 16 of them (lemma 2)."""
        count = 4 * self.block.roundings + 16 * len(self.block.body) + 32
        beyond = torch.stack([s.flatten(1).amax(1) for s in self.sizes.values()]).amax(0) + 1
        return DOUBLE.above(DOUBLE.gamma(count) * self.size, 4) + spread(self.block.underflow * beyond, self.size)

    def deployed(self, values: Tensor) -> Tensor:
        """Bounds of what an evaluation errs in each entry, every value in its own format, sums in any order (lemma 3).

        Infinite where it, or a source, may overflow. values: largest absolute values of the block before its
        activation, without these errors.
        """
        errors: dict[Node, Tensor] = {}
        for node in self.block.body:
            form = node.rounding
            if isinstance(node.op, Cast):
                (source,) = node.inputs
                size = self.sizes[source]
                errors[node] = converted(size, errors.get(source, torch.zeros_like(size)), form)
                continue
            if isinstance(node.op, LinearOp):
                (source,) = node.inputs
                carried = torch.zeros_like(self.sizes[node])
                if source in errors:
                    carried = node.op.transformed(torch.abs).linear(errors[source])
                if not self._exact(node):
                    carried = carried + _flushed(node.op, self.sizes[source] + errors.get(source, 0.0), form)
            else:
                carried = node.op(*(errors.get(i, torch.zeros_like(self.sizes[i])) for i in node.inputs))
            carried = DOUBLE.above(carried, self.block.roundings + 8)
            own = self._own(node, form, carried, values if node is self.block.pre else None)
            errors[node] = DOUBLE.above(own + carried, 8)
        error = errors.get(self.block.pre, torch.zeros_like(self.size))
        fits = [(4 * self.sizes[s] < s.rounding.largest).flatten(1).all(1) for s in self.block.sources]
        return torch.where(spread(torch.stack(fits).all(0), error), error, torch.inf)

    def _exact(self, node: Node) -> bool:
        """Whether the node only moves values: it has no coefficients and no offset."""
        if not isinstance(node.op, LinearOp) or not node.op.moves or node.op.tensors():
            return False
        return not bool(node.op.offset_size(self.sizes[node.inputs[0]]).any())

    def _own(self, node: Node, form: Rounding, carried: Tensor, values: Tensor | None) -> Tensor:
        """What the node itself adds: one rounding a product, one a sum; a partial sum is at most the larger of what is
        positive and what is negative in it, half of its size and of its value together. Zeros add nothing.

        carried: how far errors of its inputs, which are already in what it meets, move its value.
        """
        if self._exact(node):
            return torch.zeros_like(carried)
        size = self.sizes[node] + carried
        if isinstance(node.op, LinearOp):
            entries = (self.sizes[node.inputs[0]] > 0).to(torch.float64)
            count = node.op.transformed(_nonzero).linear(entries) + 1
            scale = 8.0
        else:
            count, scale = torch.full_like(size, float(len(node.inputs))), 0.0
        partial = size if values is None else torch.minimum(size, (size + values + carried) / 2)
        terms = form.unit * ((1 + scale) * size + (count - 1).clamp(min=0) * partial)
        most = int(count.max()) + 8 if count.numel() else 8
        error = terms * (1 + 4 * form.gamma(most)) + 2 * (count + 4) * form.tiny
        return torch.where(4 * size < form.largest, error, torch.inf)


def converted(size: Tensor, error: Tensor, form: Rounding) -> Tensor:
    """What a value is off by in another format, where it was off by `error` before: one rounding in a narrower one.

    size: of the exact value, which may be rounded to zero where it is subnormal in the narrower format of the two.
    Infinite where the new format may overflow.
    """
    reached = size + error
    rounding = SINGLE.unit * reached if form is SINGLE else torch.zeros_like(reached)
    found = torch.where(reached == 0, 0.0, DOUBLE.above(error + rounding + 2 * SINGLE.tiny, 4))
    return torch.where(4 * reached < form.largest, found, torch.inf)


def _nonzero(a: Tensor) -> Tensor:
    return (a != 0).to(torch.float64)


def _flushed(op: LinearOp, sizes: Tensor, form: Rounding) -> Tensor:
    """What a linear map loses where an evaluation takes subnormal values and weights for zero.

    Weights up to `2^24 tiny` count, for factors that are computed from others. sizes: of its input.
    """
    weak = op.transformed(lambda a: torch.where(a.abs() < 2**24 * form.tiny, a.abs(), 0.0))
    return weak.linear(sizes) + 4 * form.tiny * op.transformed(torch.abs).linear(torch.ones_like(sizes))


def flushed(z: Region, values: Region, phi: Activation, form: Rounding) -> Tensor:
    """What an activation loses likewise, in its values; none where they are zero anyway.

    An operator that only selects loses a value or a threshold that is subnormal itself.
    """
    near = (values.lower < form.tiny) & (values.upper > -form.tiny)
    lost = torch.where(near, 2 * form.tiny, 0.0)
    if phi.roundings:
        slope = phi.global_slope(tuple(z.centre.shape[1:])).to(lost)
        lost = lost + 2 * form.tiny * (largest(z) + slope)
    return torch.where((values.lower == 0) & (values.upper == 0), 0.0, lost)


def largest(region: Region) -> Tensor:
    """The largest absolute value of each entry over a region, its centre included."""
    return torch.maximum(torch.maximum(region.lower.abs(), region.upper.abs()), region.centre.abs())


def off(value: Tensor, roundings: int, form: Rounding = DOUBLE) -> Tensor:
    """Bounds of what a value computed with so many roundings, relative to itself, may be off by."""
    if roundings == 0:
        return torch.zeros_like(value)
    return DOUBLE.above(form.gamma(2 * roundings) * value.abs(), 2) + 2 * roundings * form.tiny


def distance(error: Tensor, weights: Tensor | None = None) -> Tensor:
    """Upper bound of the length of an error >= 0, its entries weighted, `[batch]`."""
    weighted = error if weights is None else error * weights
    return DOUBLE.above(length(weighted), weighted[0].numel() + 8)
