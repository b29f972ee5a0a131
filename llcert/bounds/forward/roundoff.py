"""What rounding costs, block by block (docs/method.md, section 12, whose lemmas are meant)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.ir import Activation, Join, LinearOp, Node, stated
from llcert.numerics.rounding import DOUBLE, SINGLE, Rounding
from llcert.numerics.tensors import flat, length, spread
from llcert.program import Block


@dataclass(frozen=True)
class BlockRoundoff:
    """Sizes and errors of one block, for whoever computes with its regions.

    size: upper bounds of `N |h| + |b|` over the regions, N the product of the absolute matrices, `[batch, *pre shape]`.
    total: the sum of sizes over all nodes on the way through the block, and its sources, `[batch]`. error: bounds of
    what an evaluation may err in an entry of the value before the activation, float64 in this proof and the deployed
    format together, `[batch, *pre shape]`. after: of what it may err besides in an entry of the output. slip: upper
    bounds of the distance of the output from that of the network in real numbers at the same point, `[batch]`, of any
    such evaluation.
    Two activations of one value are two blocks, and each has errors of its own.
    """

    size: Tensor
    total: Tensor
    error: Tensor
    after: Tensor
    slip: Tensor


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
            known[node] = value if _copies(node) else DOUBLE.above(value, block.roundings + 4)
        return Passage(block, known)

    @property
    def size(self) -> Tensor:
        """Of the value before the activation."""
        return self.sizes[self.block.pre]

    @property
    def total(self) -> Tensor:
        """The sum of all sizes, `[batch]`."""
        parts = torch.stack([flat(s).sum(1) for s in self.sizes.values()])
        return DOUBLE.above(parts.sum(0), sum(s[0].numel() for s in self.sizes.values()) + 8)

    def error(self) -> Tensor:
        """Bounds of what float64 errs in each entry, or in an end of its box: interval arithmetic through a node with r
        roundings takes at most 4 r + 16 of them (lemma 2)."""
        count = 4 * self.block.roundings + 16 * len(self.block.body) + 32
        beyond = torch.stack([flat(s).amax(1) for s in self.sizes.values()]).amax(0) + 1
        return DOUBLE.above(DOUBLE.gamma(count) * self.size, 4) + spread(self.block.underflow * beyond, self.size)

    def deployed(self, values: Tensor, least: int = 0) -> Tensor:
        """Bounds of what an evaluation errs in each entry, every value in its own format, sums in any order (lemma 3).

        An activation may read what is subnormal as zero, and pass it on as it is. Infinite where anything on the way
        may overflow: zero times that is NaN. values: largest absolute values of the
        block before its activation, without these errors. least: roundings of a product that are paid for at any rate,
        where products are rounded at all.
        """
        errors: dict[Node, Tensor] = {}
        present = {s: _present(self.sizes[s]) for s in self.block.sources}
        for node in self.block.body:
            met = self._met(node, errors, present)
            present[node] = _present(met.count)
            if _copies(node):
                errors[node] = met.carried
                if any(i.dtype != node.dtype for i in node.inputs):
                    errors[node] = converted(self.sizes[node], met.carried, node.rounding)
            else:
                carried = DOUBLE.above(met.carried, self.block.roundings + 8)
                once = max(stated(node.op), least) if stated(node.op) else 0
                pre = values if node is self.block.pre else None
                own = self._own(node, replace(met, carried=carried), once, pre)
                errors[node] = torch.where(met.count == 0, 0.0, DOUBLE.above(own + carried, 8))
        error = errors.get(self.block.pre, torch.zeros_like(self.size))
        if self.block.activation is not None:
            read = DOUBLE.above(error + self.block.node.rounding.tiny)
            error = torch.where(present[self.block.pre], read, error)
        reached = [(size + errors.get(node, 0.0), node.rounding) for node, size in self.sizes.items()]
        fits = torch.stack([flat(4 * size < form.largest).all(1) for size, form in reached]).all(0)
        return torch.where(spread(fits, error), error, torch.inf)

    def _met(self, node: Node, errors: Mapping[Node, Tensor], present: Mapping[Node, Tensor]) -> _Terms:
        """What a node adds up, for sources with these errors, of which these entries may be other than zero."""
        arriving = [errors.get(i, torch.zeros_like(self.sizes[i])) for i in node.inputs]
        entries = [present[i].to(torch.float64) for i in node.inputs]
        op = node.op
        if not isinstance(op, LinearOp):
            return _Terms(op(*arriving), op(*entries))
        size = self.sizes[node.inputs[0]]
        offset = _present(op.offset_size(size)).to(torch.float64)
        carried = op.transformed(torch.abs).linear(arriving[0])
        if not op.copies:
            carried = carried + _flushed(op, size + arriving[0], entries[0], node.rounding)
        return _Terms(carried, op.paths(entries[0]) + offset)

    def _own(self, node: Node, met: _Terms, once: int, values: Tensor | None) -> Tensor:
        """What the node itself adds: so many roundings of every term, and one of every sum. A partial sum is at most
        the larger of what is positive and what is negative in it, half of its size and of its value together."""
        size, form = self.sizes[node] + met.carried, node.rounding
        partial = size if values is None else torch.minimum(size, (size + values + met.carried) / 2)
        terms = form.unit * (once * size + (met.count - 1).clamp(min=0) * partial)
        most = (int(met.count.max()) if met.count.numel() else 0) + once + 8
        return terms * (1 + 4 * form.gamma(most)) + 2 * (met.count + 4) * form.tiny


@dataclass(frozen=True)
class _Terms:
    """What a node adds up. carried: bounds of how far errors of its inputs move its value. count: how many terms, the
    offset among them, may be other than zero; zeros add nothing. `[batch, *shape]` each."""

    carried: Tensor
    count: Tensor


def converted(size: Tensor, error: Tensor, form: Rounding) -> Tensor:
    """What a value is off by in another format, where it was off by `error` before: one rounding in a narrower one.

    size: of the exact value, which may be rounded to zero where it is subnormal in the narrower format of the two.
    Infinite where the new format may overflow.
    """
    reached = size + error
    rounding = SINGLE.unit * reached if form is SINGLE else torch.zeros_like(reached)
    found = torch.where(reached == 0, 0.0, DOUBLE.above(error + rounding + 2 * SINGLE.tiny, 4))
    return torch.where(4 * reached < form.largest, found, torch.inf)


def _copies(node: Node) -> bool:
    return isinstance(node.op, LinearOp | Join) and node.op.copies


def _present(sizes: Tensor) -> Tensor:
    """What may be other than zero; NaN may."""
    return ~(sizes == 0)


def _flushed(op: LinearOp, sizes: Tensor, entries: Tensor, form: Rounding) -> Tensor:
    """What a linear map loses where an evaluation takes subnormal values and weights for zero.

    Weights up to `2^24 tiny` count, for factors that are computed from others. sizes: of its input. entries: one where
    that may be other than zero.
    """
    weak = op.transformed(lambda a: torch.where(a.abs() < 2**24 * form.tiny, a.abs(), 0.0))
    return weak.linear(sizes) + 4 * form.tiny * op.transformed(torch.abs).linear(entries)


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


def inexact(phi: Activation, values: Region, form: Rounding) -> Tensor:
    """Bounds of what an evaluation of an activation errs in a format, as its author states; values: their region."""
    size, roundings = largest(values), stated(phi)
    if roundings == 0:
        return torch.zeros_like(size)
    size = size if phi.relative else size.clamp(min=1)
    error = DOUBLE.above(form.gamma(2 * roundings) * size, 2) + 2 * roundings * form.tiny
    return torch.where(size == 0, 0.0, error)


def distance(error: Tensor, weights: Tensor | None = None) -> Tensor:
    """Upper bound of the length of an error >= 0, its entries weighted, `[batch]`."""
    weighted = error if weights is None else error * weights
    return DOUBLE.above(length(weighted), weighted[0].numel() + 8)
