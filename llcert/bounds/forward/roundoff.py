"""Bounds of rounding errors, block by block: of float64 in the proof itself, and of deployed evaluations
(docs/method.md, section 12, whose lemmas are meant).

*Deployed* is an evaluation of the network as it is run: every node in its own number format, sums in any order. The
*size* of a value is the sum of the absolute values of everything that is added up to get it. For the verified
arithmetic of the forward propagation, for global bounds, and for evaluations at single points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.ir import Activation, Join, LinearOp, Node, stated_roundings
from llcert.numerics.rounding import DOUBLE, SINGLE, Rounding
from llcert.numerics.tensors import flat, length, spread
from llcert.program import Block


@dataclass(frozen=True)
class BlockRoundoff:
    """Sizes and rounding errors of one block over its region, upper bounds all.

    size: of the value before the activation, `N |h| + |b|` with N the product of the absolute matrices, `[batch, *pre
    shape]`. total: the sum of the sizes of all nodes of the block and of its sources, `[batch]`. float64: the error of
    float64 in the proof in an entry of the value before the activation, `[batch, *pre shape]`. error: that and the
    error of a deployed evaluation together, for any values of the sources. centre_error: the same for the centres of
    the sources. further_error: how much longer the vector of errors is at other values than at these, `[batch]`.
    activation_error: what the activation adds to the error of an entry of the output, `[batch, *shape]`. slip: the
    distance of the output at the centre, as float64 computes it, from that in real numbers, and that of a deployed
    output from the one in real numbers at the same point, together, `[batch]`.

    Two activations of one value are two blocks, and each has errors of its own.
    """

    size: Tensor
    total: Tensor
    float64: Tensor
    error: Tensor
    centre_error: Tensor
    further_error: Tensor
    activation_error: Tensor
    slip: Tensor

    def length(self, weights: Tensor) -> Tensor:
        """Upper bounds of the length of the errors of one evaluation, its entries weighted, `[batch]` (lemma 3a).

        Infinite or NaN where the bounds of its entries are. weights: >= 0, broadcastable to `[batch, *pre shape]`.
        """
        over_box = distance(self.error, weights)
        largest_weight = flat(weights * torch.ones_like(self.error)).amax(1)
        over_ball = DOUBLE.above(
            distance(self.centre_error, weights) + DOUBLE.above(largest_weight * self.further_error)
        )
        return torch.where((over_ball < over_box) & torch.isfinite(over_box), over_ball, over_box)

    @property
    def entrywise(self) -> Tensor:
        """Bounds of the errors of one evaluation in each entry, by box and ball, `[batch, *pre shape]`."""
        over_ball = DOUBLE.above(self.centre_error + spread(self.further_error, self.centre_error))
        return torch.where((over_ball < self.error) & torch.isfinite(self.error), over_ball, self.error)


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of all values inside a block, rounded up: upper bounds of every sum of absolute values in an evaluation.

    sizes: of the sources and of every node of the body, `[batch, *shape]`. They belong to this block alone: another
    block with the same node starts from its own sources.
    """

    block: Block
    sizes: Mapping[Node, Tensor]

    @staticmethod
    def of(block: Block, sources: Mapping[Node, Region]) -> BlockSizes:
        """The sizes over the regions of the block's sources."""
        return BlockSizes._from(block, {s: largest(r) for s, r in sources.items()})

    @staticmethod
    def at_centre(block: Block, sources: Mapping[Node, Region]) -> BlockSizes:
        """The sizes where the sources have the values of their centres. An entry that is zero there counts as nonzero
        where it may be nonzero elsewhere in the region."""
        return BlockSizes._from(block, {s: _centre_size(r) for s, r in sources.items()})

    @staticmethod
    def _from(block: Block, sources: Mapping[Node, Tensor]) -> BlockSizes:
        known = dict(sources)
        for node in block.body:
            if isinstance(node.op, LinearOp):
                size = known[node.inputs[0]]
                value = node.op.transformed(torch.abs).linear(size) + node.op.offset_size(size)
            else:
                value = node.op(*(known[i] for i in node.inputs))
            known[node] = value if _copies(node) else DOUBLE.above(value, block.roundings + 4)
        return BlockSizes(block, known)

    @property
    def size(self) -> Tensor:
        """The size of the value before the activation, `[batch, *pre shape]`."""
        return self.sizes[self.block.pre]

    @property
    def total(self) -> Tensor:
        """The sum of all sizes, `[batch]`."""
        parts = torch.stack([flat(s).sum(1) for s in self.sizes.values()])
        return DOUBLE.above(parts.sum(0), sum(s[0].numel() for s in self.sizes.values()) + 8)

    def float64_error(self) -> Tensor:
        """Bounds of the error of float64 in each entry of the value before the activation and in the ends of its box,
        `[batch, *pre shape]`: interval arithmetic through a node with r roundings takes at most 4 r + 16 (lemma 2)."""
        count = 4 * self.block.roundings + 16 * len(self.block.body) + 32
        beyond = torch.stack([flat(s).amax(1) for s in self.sizes.values()]).amax(0) + 1
        return DOUBLE.above(DOUBLE.gamma(count) * self.size, 4) + spread(self.block.underflow * beyond, self.size)

    def deployed_error(self, values: Tensor, least: int = 0) -> Tensor:
        """Bounds of the error of a deployed evaluation in each entry of the value before the activation (lemma 3).

        `[batch, *pre shape]`. A subnormal number may be taken for zero by the activation or not. Infinite where any
        value of the block may overflow, because an infinite value times zero is NaN. values: largest absolute values
        before the activation, without these errors. least: the number of roundings of a product that are paid for at
        least, where products are rounded at all.
        """
        errors: dict[Node, Tensor] = {}
        nonzero = {s: _nonzero(self.sizes[s]) for s in self.block.sources}
        for node in self.block.body:
            terms = self._terms(node, errors, nonzero)
            nonzero[node] = _nonzero(terms.count)
            if _copies(node):
                errors[node] = terms.propagated
                if any(i.dtype != node.dtype for i in node.inputs):
                    errors[node] = converted(self.sizes[node], terms.propagated, node.rounding)
            else:
                propagated = DOUBLE.above(terms.propagated, self.block.roundings + 8)
                roundings = max(stated_roundings(node.op), least) if stated_roundings(node.op) else 0
                pre = values if node is self.block.pre else None
                own = self._own_error(node, replace(terms, propagated=propagated), roundings, pre)
                errors[node] = torch.where(terms.count == 0, 0.0, DOUBLE.above(own + propagated, 8))
        error = errors.get(self.block.pre, torch.zeros_like(self.size))
        if self.block.activation is not None:
            read = DOUBLE.above(error + self.block.node.rounding.tiny)
            error = torch.where(nonzero[self.block.pre], read, error)
        reached = [(size + errors.get(node, 0.0), node.rounding) for node, size in self.sizes.items()]
        reached += [(size, node.rounding) for node in self.block.body for size in self._intermediate(node, errors)]
        fits = torch.stack([flat(4 * size < form.largest).all(1) for size, form in reached]).all(0)
        return torch.where(spread(fits, error), error, torch.inf)

    def _intermediate(self, node: Node, errors: Mapping[Node, Tensor]) -> list[Tensor]:
        """What a node meets on its way that may be larger than its size, where there is such."""
        if not isinstance(node.op, LinearOp):
            return []
        (source,) = node.inputs
        found = node.op.intermediate_size(self.sizes[source] + errors.get(source, 0.0))
        return [] if found is None else [found]

    def _terms(self, node: Node, errors: Mapping[Node, Tensor], nonzero: Mapping[Node, Tensor]) -> _Terms:
        """The terms of a node's sums. errors: of its inputs. nonzero: which entries of these may differ from zero."""
        arriving = [errors.get(i, torch.zeros_like(self.sizes[i])) for i in node.inputs]
        entries = [nonzero[i].to(torch.float64) for i in node.inputs]
        op = node.op
        if not isinstance(op, LinearOp):
            return _Terms(op(*arriving), op(*entries))
        size = self.sizes[node.inputs[0]]
        offset = _nonzero(op.offset_size(size)).to(torch.float64)
        propagated = op.transformed(torch.abs).linear(arriving[0])
        if not op.copies:
            # an offset may be made of numbers that the coefficients scale, as that of a batch norm of its mean
            met = torch.ones_like(entries[0]) if bool(offset.any()) else entries[0]
            propagated = propagated + _flushing_error(op, size + arriving[0], met, node.rounding)
        return _Terms(propagated, op.paths(entries[0]) + offset)

    def _own_error(self, node: Node, terms: _Terms, roundings: int, values: Tensor | None) -> Tensor:
        """The error that a node itself adds, equation (12.1): roundings of every term, and one of every partial sum.

        A partial sum is at most the larger of the sums of positive and of negative terms, that is half of size and
        absolute value together. values: the absolute values, None where they are not bounded.
        """
        size, form = self.sizes[node] + terms.propagated, node.rounding
        partial = size if values is None else torch.minimum(size, (size + values + terms.propagated) / 2)
        error = form.unit * (roundings * size + (terms.count - 1).clamp(min=0) * partial)
        most = (int(terms.count.max()) if terms.count.numel() else 0) + roundings + 8
        return error * (1 + 4 * form.gamma(most)) + 2 * (terms.count + 4) * form.tiny


@dataclass(frozen=True)
class _Terms:
    """The terms that a node adds up for each entry of its value, `[batch, *shape]` each.

    propagated: bounds of how far errors of its inputs move the value. count: the number of terms, the offset among
    them, that may differ from zero; adding zeros is exact.
    """

    propagated: Tensor
    count: Tensor


def converted(size: Tensor, error: Tensor, form: Rounding) -> Tensor:
    """Bounds of the error of a value after its conversion to another format: one more rounding in a narrower one.

    error: before. size: of the exact value, which may be rounded to zero where it is subnormal in the narrower format
    of the two. Infinite where the new format may overflow.
    """
    reached = size + error
    rounding = SINGLE.unit * reached if form is SINGLE else torch.zeros_like(reached)
    found = torch.where(reached == 0, 0.0, DOUBLE.above(error + rounding + 2 * SINGLE.tiny, 4))
    return torch.where(4 * reached < form.largest, found, torch.inf)


def _copies(node: Node) -> bool:
    """Whether a node copies entries and rounds nothing."""
    return isinstance(node.op, LinearOp | Join) and node.op.copies


def _nonzero(sizes: Tensor) -> Tensor:
    """Which entries may differ from zero, boolean; NaN may."""
    return ~(sizes == 0)


def _flushing_error(op: LinearOp, sizes: Tensor, entries: Tensor, form: Rounding) -> Tensor:
    """Bounds of the error of a linear map where subnormal values and weights are flushed to zero.

    Weights up to `2^24 tiny` count, for factors that are computed from others. sizes: of its input. entries: 1 where
    that may differ from zero, or something else that the coefficients scale.
    """
    weak = op.transformed(lambda a: torch.where(a.abs() < 2**24 * form.tiny, a.abs(), 0.0))
    return weak.linear(sizes) + 4 * form.tiny * op.transformed(torch.abs).linear(entries)


def activation_flushing(z: Region, values: Region, phi: Activation, form: Rounding) -> Tensor:
    """Bounds of the error of an activation's values where subnormal numbers are flushed to zero; 0 where they are zero.

    An operator that only selects loses a value or a threshold that is subnormal itself. z, values: the regions before
    and behind it.
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


def _centre_size(region: Region) -> Tensor:
    """The absolute values of a centre, at least the smallest normal number where an entry is not zero everywhere."""
    return torch.where(largest(region) == 0, 0.0, region.centre.abs().clamp(min=DOUBLE.tiny))


def activation_rounding(phi: Activation, values: Region, form: Rounding) -> Tensor:
    """Bounds of the rounding errors of an activation in a format, as its author states; values: the region of its
    output."""
    size, roundings = largest(values), stated_roundings(phi)
    if roundings == 0:
        return torch.zeros_like(size)
    size = size if phi.relative else size.clamp(min=1)
    error = DOUBLE.above(form.gamma(2 * roundings) * size, 2) + 2 * roundings * form.tiny
    return torch.where(size == 0, 0.0, error)


def distance(error: Tensor, weights: Tensor | None = None) -> Tensor:
    """Upper bound of the length of an error >= 0, its entries weighted, `[batch]`."""
    weighted = error if weights is None else error * weights
    return DOUBLE.above(length(weighted), weighted[0].numel() + 8)
