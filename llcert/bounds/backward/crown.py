"""The backward pass: lower bounds of linear functions of any values over the ball (docs/method.md, section 9).

A row of coefficients passes activations by their relaxations and linear maps by their adjoints. It can also stop at any
block: the pending rows are then bounded over box and ball (section 8), so that the paper's local bound and linear bound
propagation are the two ends of one family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from llcert.bounds.backward.choices import Choice, Choices, Fixed, Key, Policy, Tightest
from llcert.bounds.forward.box import squares
from llcert.bounds.forward.trace import Trace
from llcert.bounds.margin import largest_increase
from llcert.domain.row_sharing import UNSHARED, RowSharing
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE, Rounding
from llcert.numerics.tensors import flat, length
from llcert.program import Block, Program, Term

_NONE: Mapping[Node, RowSharing] = MappingProxyType({})

_ENTRIES = 2**21
"""The largest number of coefficients, at all activations, of rows that are computed together."""


@dataclass(frozen=True)
class BackwardBounds:
    """What a backward pass found.

    lower: lower bounds of the objectives, `[batch, bounds]`. choices: at every step that was passed. coefficients: of
    the objectives on the output of every such step, `[batch, rows, *shape]`. pending: the
    coefficients that are left on the image, where no stop was better. paid: what `lower` pays for rounding there,
    `[batch, bounds]`.
    """

    lower: Tensor
    choices: Choices
    coefficients: Mapping[Key, Tensor]
    pending: Mapping[Node, Tensor]
    paid: Tensor


@dataclass(frozen=True)
class Stop:
    """The lower bounds of rows that stop somewhere, `[batch, rows]`, and the rows that are left there.

    pending: by the value they act on. Rows from several readers of one value are added up, which is what they mean.
    """

    bounds: Tensor
    pending: Mapping[Node, Tensor]


class _Sum:
    """A lower bound that is added up. With a rounding, what it rounds is taken off at the end."""

    def __init__(self, like: Tensor, rounding: Rounding | None) -> None:
        self.rounding, self.value, self.size, self.lost, self.count = rounding, like, like.abs(), like.abs(), 0

    def copy(self) -> _Sum:
        other = _Sum(self.value, self.rounding)
        other.size, other.lost, other.count = self.size, self.lost, self.count
        return other

    def add(self, part: Tensor, lost: Tensor | None = None) -> None:
        """part: a term; lost: bound of what it may be too large by."""
        self.value, self.count = self.value + part, self.count + 1
        if self.rounding is not None:
            self.size = self.size + part.abs()
            self.lost = self.lost if lost is None else self.lost + lost

    @property
    def lower(self) -> Tensor:
        if self.rounding is None:
            return self.value
        paid = self.rounding.gamma(2 * self.count + 8) * self.size + self.lost
        return self.value - self.rounding.above(paid, 2 * self.count + 8)


@dataclass
class _Walk:
    """Objectives on their way to the image, while one backward pass lasts.

    pending: their coefficients on the values that are still to be passed. sharings: of these; one bound a row where
    there is none. total: the constants so far. choices, coefficients: as of `BackwardBounds`.
    """

    trace: Trace
    policy: Policy
    total: _Sum
    pending: dict[Node, Tensor]
    sharings: Mapping[Node, RowSharing] = field(default_factory=lambda: _NONE)
    choices: dict[Key, Choice] = field(default_factory=dict)
    coefficients: dict[Key, Tensor] = field(default_factory=dict)

    def sharing(self, node: Node) -> RowSharing:
        return self.sharings.get(node, UNSHARED)

    def hand_on(self, node: Node, part: Tensor) -> None:
        """Adds coefficients on a value to what is pending there."""
        self.pending[node] = self.pending[node] + part if node in self.pending else part


@dataclass(frozen=True)
class Backward:
    """Carries rows from the blocks of a program to its image.

    clip: the image's box, cut to a range of pixels, counts too; else its ball alone.
    """

    program: Program
    clip: bool = False

    @property
    def rows_at_once(self) -> int:
        """How many rows fit the memory together: a backward pass holds every activation's entries for each."""
        entries = sum(torch.Size(b.pre.shape).numel() for b in self.program.blocks)
        return max(_ENTRIES // max(entries, 1), 1)

    @cached_property
    def offsets(self) -> dict[Node, Tensor]:
        """Every block's value before its activation where all sources are zero, `[1, *shape]`."""
        zeros = {
            s: torch.zeros(1, *s.shape, dtype=self.program.dtype, device=self.program.device)
            for b in self.program.blocks
            for s in b.sources
        }
        return {b.node: b.value(zeros) for b in self.program.blocks}

    def __call__(
        self, trace: Trace, rows: Mapping[Node, Tensor], policy: Policy, *, stops: bool = False
    ) -> BackwardBounds:
        """Lower bounds of `sum of rows . value` over the trace's regions, `[batch, rows]`: as sound as the trace.

        A trace that pays for rounding makes the backward pass pay for its own. rows: on the outputs of some blocks,
        `[batch, rows, *shape]`. stops: the best of stopping at any activation and of going down to the image; else down
        to the image. An activation that has no relaxation is not passed: its output is bounded over its region.
        """
        return self._down(self._walk(trace, rows, policy), stops=stops)

    def closed(self, trace: Trace, directions: Tensor) -> Tensor:
        """Lower bounds of rows on the logits by the tightest slopes, the best stop of each, `[batch, rows]`, in parts
        that fit the memory.

        directions: `[batch, rows, logits]`.
        """
        count, found = directions.shape[1], []
        for images in torch.arange(len(directions), device=directions.device).split(self._fitting(count)):
            own = trace.select(images)
            parts = directions[images].split(self._fitting(len(images)), 1)
            bounds = [self(own, {self.program.output: rows}, Tightest(), stops=True).lower for rows in parts]
            found.append(torch.cat(bounds, 1))
        return torch.cat(found)

    def _fitting(self, times: int) -> int:
        """How many fit where each stands for several rows."""
        return max(self.rows_at_once // max(times, 1), 1)

    def before(
        self,
        trace: Trace,
        index: int,
        rows: Tensor,
        policy: Policy,
        *,
        stops: bool = False,
        sharings: Mapping[Node, RowSharing] = _NONE,
        sharing: RowSharing = UNSHARED,
    ) -> BackwardBounds:
        """The same for rows on the value of block number `index` before its activation.

        sharing: of the rows. sharings: of what becomes of them, at the cuts below.
        """
        total = self._total(trace, sharing.sums(torch.zeros_like(rows)))
        walk = _Walk(trace, policy, total, {}, sharings)
        self._affine(walk, self.program.blocks[index], rows, sharing)
        return self._down(walk, stops=stops)

    def at_every_stop(self, trace: Trace, rows: Mapping[Node, Tensor], policy: Policy) -> dict[Node, Stop]:
        """What `__call__` finds where a row stops, from the logits down to the image; all activations can be relaxed.

        Raises ValueError for one that cannot.
        """
        walk, found = self._walk(trace, rows, policy), dict[Node, Stop]()
        for index, block in self._downwards():
            if block.node not in walk.pending:
                continue
            found[block.node] = Stop(self._stopped(walk).lower, dict(walk.pending))
            if not self._passed(walk, index):
                raise ValueError(f"{block.label} has no relaxation")
        found[self.program.input] = Stop(self._stopped(walk).lower, dict(walk.pending))
        return found

    def last(self, trace: Trace, rows: Mapping[Node, Tensor]) -> Tensor:
        """The same for rows on the logits, stopped at the last hidden values (docs/method.md, section 5)."""
        return self.last_stop(trace, rows).bounds

    def last_stop(self, trace: Trace, rows: Mapping[Node, Tensor]) -> Stop:
        """`last`, and the rows that are left there."""
        walk, block = self._walk(trace, rows, Fixed({})), self.program.blocks[-1]
        if block.activation is None:
            self._affine(walk, block, walk.pending.pop(block.node))
        return Stop(self._stopped(walk).lower, walk.pending)

    def _downwards(self) -> Iterable[tuple[int, Block]]:
        return reversed(list(enumerate(self.program.blocks)))

    def _walk(self, trace: Trace, rows: Mapping[Node, Tensor], policy: Policy) -> _Walk:
        like = next(iter(rows.values()))
        return _Walk(trace, policy, self._total(trace, like.new_zeros(like.shape[:2])), dict(rows))

    def _total(self, trace: Trace, zero: Tensor) -> _Sum:
        return _Sum(zero, DOUBLE if trace.roundoff is not None else None)

    def _down(self, walk: _Walk, *, stops: bool) -> BackwardBounds:
        """Takes all that is pending down to the image, or to activations that cannot be relaxed."""
        best = torch.full_like(walk.total.value, -torch.inf)
        for index, block in self._downwards():
            if block.node not in walk.pending:
                continue
            if stops and block.activation is not None:
                best = torch.fmax(best, self._stopped(walk).lower)
            if not self._passed(walk, index):
                self._end(walk.trace, block.node, walk.pending.pop(block.node), walk.total)
        end = self._stopped(walk)
        lower = end.lower
        return BackwardBounds(torch.fmax(best, lower), walk.choices, walk.coefficients, walk.pending, end.value - lower)

    def _passed(self, walk: _Walk, index: int) -> bool:
        """Takes what is pending on a block's output to its sources; False where the activation cannot be relaxed."""
        block = self.program.blocks[index]
        if walk.trace.steps(block) is None:
            return False
        sharing = walk.sharing(block.node)
        g = self._activation(walk, index, walk.pending.pop(block.node), sharing)
        self._affine(walk, block, g, sharing)
        return True

    def _stopped(self, walk: _Walk) -> _Sum:
        """The bound if everything that is pending is bounded over its own region."""
        stopped = walk.total.copy()
        for node, a in walk.pending.items():
            self._end(walk.trace, node, a, stopped, walk.sharing(node))
        return stopped

    def _end(self, trace: Trace, node: Node, rows: Tensor, total: _Sum, sharing: RowSharing = UNSHARED) -> None:
        """Adds the least value of rows over the region of a node; over the image's ball alone where rows are shared."""
        known = trace.post_activation[node]
        products = rows * known.region.centre[:, None]
        lost = _lost(products, trace, sharing)
        if node is self.program.input and (not self.clip or sharing is not UNSHARED):
            fall = known.region.radius[:, None] * _length(rows, sharing)
            fall = fall if lost is None else DOUBLE.above(fall, rows[0].numel() + 16)
        else:
            fall = largest_increase(-flat(rows, 2), known, rounding=total.rounding)
        total.add(sharing.sums(products), lost)
        total.add(-fall)

    def _activation(self, walk: _Walk, index: int, a: Tensor, sharing: RowSharing) -> Tensor:
        """The rows before a block's activation; adds what its relaxations cost."""
        block, trace, total = self.program.blocks[index], walk.trace, walk.total
        if trace.roundoff is not None and block.activation is not None:
            errors = sharing.sums(a.abs() * trace.roundoff[block.node].after[:, None])
            total.add(torch.zeros_like(errors), DOUBLE.above(errors, a[0].numel() + 8))
        for number, step in reversed(list(enumerate(trace.steps(block) or ()))):
            key = index, number
            inner, passing = step.enter(a)
            choice = walk.policy(key, step, inner, sharing)
            walk.choices[key], walk.coefficients[key] = Choice(choice.slopes, choice.lam), inner
            before = step.leave(choice.slopes * inner, passing)
            constant = step.constant(inner, choice.slopes, choice.lam, total.rounding, sharing, choice.constant)
            total.add(constant, _turned(trace, block, a, before, sharing))
            a = before
        return a

    def _affine(self, walk: _Walk, block: Block, g: Tensor, sharing: RowSharing = UNSHARED) -> None:
        """Carries rows through a block's linear map; adds what its offset gives, and what rounding of all this may."""
        lost, roundoff = None, walk.trace.roundoff
        if roundoff is not None:
            known = roundoff[block.node]
            count = block.roundings + len(self.program.blocks) + g[0].numel() + 16
            errors = DOUBLE.gamma(2 * count) * known.size + known.error
            paid = sharing.sums(g.abs() * errors[:, None])
            underflow = 4 * count * DOUBLE.tiny * known.total[:, None]
            lost = DOUBLE.above(paid + underflow, count)
        walk.total.add(sharing.sums(g * self.offsets[block.node]), lost)
        for term in block.terms:
            walk.hand_on(term.source, _adjoint(term, g))


def differences(labels: Tensor, program: Program) -> Tensor:
    """The rows `e_y - e_j` on the logits, `[batch, logits, logits]`."""
    unit = torch.eye(program.output.shape[0], dtype=program.dtype, device=program.device)
    return unit[labels][:, None] - unit


def _length(rows: Tensor, sharing: RowSharing) -> Tensor:
    """The length of the part of a row that belongs to each bound, `[batch, bounds]`."""
    return length(rows, 2) if sharing is UNSHARED else sharing.sums(squares(rows)).sqrt()


def _lost(products: Tensor, trace: Trace, sharing: RowSharing) -> Tensor | None:
    """What a sum of products may be off by; None where rounding is not paid for."""
    if trace.roundoff is None:
        return None
    count = products[0].numel() + 8
    return DOUBLE.above(DOUBLE.gamma(count) * sharing.sums(products.abs()), count)


def _turned(trace: Trace, block: Block, after: Tensor, before: Tensor, sharing: RowSharing) -> Tensor | None:
    """What the rounding of rows on their way into and out of a step may cost: a few roundings of each, times values."""
    if trace.roundoff is None:
        return None
    z, h = trace.pre_activation[block.node], trace.post_activation[block.node].region
    ends = (z.lower, z.upper, h.lower, h.upper, z.centre)
    largest = torch.stack([flat(e.abs()).amax(1) for e in ends]).amax(0)[:, None]
    paid = DOUBLE.gamma(16) * 4 * largest * (sharing.sums(after.abs()) + sharing.sums(before.abs()))
    return DOUBLE.above(paid, after[0].numel() + before[0].numel())


def _adjoint(term: Term, rows: Tensor) -> Tensor:
    return term.adjoint(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
