"""The backward pass: lower bounds of linear functions of any values, carried down to the image (METHOD, section 7).

A row on a block's value goes through activations by their relaxations and through linear maps by their adjoints. At
every block it could also stop there: what is pending is bounded over box and ball (METHOD, section 5), so that the
paper's local bound and linear bound propagation are the two ends of one family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from llcert.bounds.box import squares
from llcert.bounds.forward import Trace
from llcert.bounds.margin import largest_increase
from llcert.ir import Node
from llcert.layout import PER_ROW, Layout, flat
from llcert.program import Block, Program, Term
from llcert.region import length
from llcert.relaxation import Relaxation
from llcert.rounding import DOUBLE, Rounding

_NONE: Mapping[Node, Layout] = MappingProxyType({})

_ENTRIES = 2**21
"""Entries of all activations that are carried at a time, over all rows."""

Key = tuple[int, int]
"""A step of a block's activation: the number of the block in its program, the number of the step. A backward pass
goes through every block once, with all that is pending there, so no two choices of a pass share a key."""


@dataclass(frozen=True)
class Choice:
    """What a backward pass may choose at a step; any slopes and any `lam >= 0` give a bound.

    slopes: `[batch, rows, *shape]`. lam: `[batch, bounds]`, one a row where rows are not shared. constant: what the
    step then adds for these very rows, without rounding, `[batch, bounds]`, where that is known.
    """

    slopes: Tensor
    lam: Tensor
    constant: Tensor | None = None


Policy = Callable[[Key, Relaxation, Tensor, Layout], Choice]
"""Chooses at a step, for the rows that reach it and their layout."""


@dataclass(frozen=True)
class Tightest:
    """Slopes that are tightest over the box, and multipliers by a search; keeps what it chose.

    iterations: of the search.
    """

    iterations: int = 8
    chosen: dict[Key, Choice] = field(default_factory=dict)

    def __call__(self, key: Key, step: Relaxation, rows: Tensor, layout: Layout = PER_ROW) -> Choice:
        slopes = step.slopes(rows)
        lam, constant = step.multipliers(rows, slopes, self.iterations, layout)
        self.chosen[key] = Choice(slopes, lam)
        return Choice(slopes, lam, constant)


@dataclass(frozen=True)
class Chosen:
    """What was chosen before, as it is."""

    chosen: Mapping[Key, Choice]

    def __call__(self, key: Key, step: Relaxation, rows: Tensor, layout: Layout = PER_ROW) -> Choice:
        return self.chosen[key]


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

    def __call__(self, trace: Trace, rows: Mapping[Node, Tensor], policy: Policy, *, stops: bool = False) -> Tensor:
        """Lower bounds of `sum of rows . value` over the trace's regions, `[batch, rows]`: as sound as the trace.

        A trace that pays for rounding makes the backward pass pay for its own. rows: on the outputs of some blocks,
        `[batch, rows, *shape]`. stops: the best of stopping at any activation and of going down to the image; else down
        to the image. An activation that has no relaxation is not passed: its output is bounded over its region.
        """
        total = self._total(trace, next(iter(rows.values())))
        return self._carried(trace, dict(rows), policy, total, {}, stops=stops)

    def closed(self, trace: Trace, directions: Tensor) -> Tensor:
        """Lower bounds of rows on the logits by the tightest slopes, the best stop of each, `[batch, rows]`, in parts
        that fit the memory.

        directions: `[batch, rows, logits]`.
        """
        count, found = directions.shape[1], []
        for images in torch.arange(len(directions), device=directions.device).split(self._fitting(count)):
            own = trace.select(images)
            parts = directions[images].split(self._fitting(len(images)), 1)
            bounds = [self(own, {self.program.output: rows}, Tightest(), stops=True) for rows in parts]
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
        layouts: Mapping[Node, Layout] = _NONE,
        layout: Layout = PER_ROW,
    ) -> Tensor:
        """The same for rows on the value of block number `index` before its activation, `[batch, bounds]`.

        layout: of the rows. layouts: of what becomes of them, at the cuts below.
        """
        total, pending = self._total(trace, layout.total(torch.zeros_like(rows))), dict[Node, Tensor]()
        self._affine(trace, self.program.blocks[index], rows, pending, total, layout)
        return self._carried(trace, pending, policy, total, layouts, stops=stops)

    def _carried(
        self,
        trace: Trace,
        pending: dict[Node, Tensor],
        policy: Policy,
        total: _Sum,
        layouts: Mapping[Node, Layout],
        *,
        stops: bool,
    ) -> Tensor:
        best = torch.full_like(total.value, -torch.inf)
        for index, block in reversed(list(enumerate(self.program.blocks))):
            if block.node not in pending:
                continue
            if stops and block.activation is not None:
                best = torch.fmax(best, self._stopped(trace, pending, total, layouts))
            steps = trace.steps(block)
            a = pending.pop(block.node)
            if steps is None:
                self._end(trace, block.node, a, total)
                continue
            layout = layouts.get(block.node, PER_ROW)
            g = self._activation(trace, index, a, policy, total, layout)
            self._affine(trace, block, g, pending, total, layout)
        return torch.fmax(best, self._stopped(trace, pending, total, layouts))

    def at_every_stop(self, trace: Trace, rows: Mapping[Node, Tensor], policy: Policy) -> dict[Node, Stop]:
        """What `__call__` finds where a row stops, from the logits down to the image; all activations can be relaxed.

        Raises ValueError for one that cannot.
        """
        total, pending, found = self._total(trace, next(iter(rows.values()))), dict(rows), dict[Node, Stop]()
        for index, block in reversed(list(enumerate(self.program.blocks))):
            if block.node not in pending:
                continue
            found[block.node] = Stop(self._stopped(trace, pending, total), dict(pending))
            if trace.steps(block) is None:
                raise ValueError(f"{block.label} has no relaxation")
            g = self._activation(trace, index, pending.pop(block.node), policy, total)
            self._affine(trace, block, g, pending, total)
        found[self.program.input] = Stop(self._stopped(trace, pending, total), dict(pending))
        return found

    def last(self, trace: Trace, rows: Mapping[Node, Tensor]) -> Tensor:
        """The same for rows on the logits, stopped at the last hidden values (METHOD, section 5)."""
        return self.last_stop(trace, rows).bounds

    def last_stop(self, trace: Trace, rows: Mapping[Node, Tensor]) -> Stop:
        """`last`, and the rows that are left there."""
        (a,), block = rows.values(), self.program.blocks[-1]
        total = self._total(trace, a)
        pending = dict(rows)
        if block.activation is None:
            self._affine(trace, block, pending.pop(block.node), pending, total)
        return Stop(self._stopped(trace, pending, total), pending)

    def _total(self, trace: Trace, like: Tensor) -> _Sum:
        return _Sum(like.new_zeros(like.shape[:2]), DOUBLE if trace.roundoff is not None else None)

    def _stopped(
        self,
        trace: Trace,
        pending: Mapping[Node, Tensor],
        total: _Sum,
        layouts: Mapping[Node, Layout] = _NONE,
    ) -> Tensor:
        """The bound if everything that is pending is bounded over its own region."""
        stopped = total.copy()
        for node, a in pending.items():
            self._end(trace, node, a, stopped, layouts.get(node, PER_ROW))
        return stopped.lower

    def _end(self, trace: Trace, node: Node, rows: Tensor, total: _Sum, layout: Layout = PER_ROW) -> None:
        """Adds the least value of rows over the region of a node; over the image's ball alone where rows are shared."""
        known = trace.post_activation[node]
        products = rows * known.region.centre[:, None]
        lost = _lost(products, trace, layout)
        if node is self.program.input and (not self.clip or layout is not PER_ROW):
            fall = known.region.radius[:, None] * _length(rows, layout)
            fall = fall if lost is None else DOUBLE.above(fall, rows[0].numel() + 16)
        else:
            fall = largest_increase(-flat(rows, 2), known, rounding=total.rounding)
        total.add(layout.total(products), lost)
        total.add(-fall)

    def _activation(
        self, trace: Trace, index: int, a: Tensor, policy: Policy, total: _Sum, layout: Layout = PER_ROW
    ) -> Tensor:
        """The rows before a block's activation; adds what its relaxations cost."""
        block = self.program.blocks[index]
        if trace.roundoff is not None and block.activation is not None:
            errors = layout.total(a.abs() * trace.roundoff.after[block.node][:, None])
            total.add(torch.zeros_like(errors), DOUBLE.above(errors, a[0].numel() + 8))
        for number, step in reversed(list(enumerate(trace.steps(block) or ()))):
            inner, passing = step.enter(a)
            choice = policy((index, number), step, inner, layout)
            before = step.leave(choice.slopes * inner, passing)
            constant = step.constant(inner, choice.slopes, choice.lam, total.rounding, layout, choice.constant)
            total.add(constant, _turned(trace, block, a, before, layout))
            a = before
        return a

    def _affine(
        self,
        trace: Trace,
        block: Block,
        g: Tensor,
        pending: dict[Node, Tensor],
        total: _Sum,
        layout: Layout = PER_ROW,
    ) -> None:
        """Carries rows through a block's linear map; adds what its offset gives, and what rounding of all this may."""
        lost = None
        if trace.roundoff is not None:
            known = trace.roundoff
            count = block.roundings + len(self.program.blocks) + g[0].numel() + 16
            errors = DOUBLE.gamma(2 * count) * known.sizes[block.node] + known.errors[block.node]
            paid = layout.total(g.abs() * errors[:, None])
            underflow = 4 * count * DOUBLE.tiny * known.totals[block.node][:, None]
            lost = DOUBLE.above(paid + underflow, count)
        total.add(layout.total(g * self.offsets[block.node]), lost)
        for term in block.terms:
            part = _adjoint(term, g)
            pending[term.source] = pending[term.source] + part if term.source in pending else part


def differences(labels: Tensor, program: Program) -> Tensor:
    """The rows `e_y - e_j` on the logits, `[batch, logits, logits]`."""
    unit = torch.eye(program.output.shape[0], dtype=program.dtype, device=program.device)
    return unit[labels][:, None] - unit


def _length(rows: Tensor, layout: Layout) -> Tensor:
    """The length of the part of a row that belongs to each bound, `[batch, bounds]`."""
    return length(rows, 2) if layout is PER_ROW else layout.total(squares(rows)).sqrt()


def _lost(products: Tensor, trace: Trace, layout: Layout) -> Tensor | None:
    """What a sum of products may be off by; None where rounding is not paid for."""
    if trace.roundoff is None:
        return None
    count = products[0].numel() + 8
    return DOUBLE.above(DOUBLE.gamma(count) * layout.total(products.abs()), count)


def _turned(trace: Trace, block: Block, after: Tensor, before: Tensor, layout: Layout) -> Tensor | None:
    """What the rounding of rows on their way into and out of a step may cost: a few roundings of each, times values."""
    if trace.roundoff is None:
        return None
    z, h = trace.pre_activation[block.node], trace.post_activation[block.node].region
    ends = (z.lower, z.upper, h.lower, h.upper, z.centre)
    largest = torch.stack([flat(e.abs()).amax(1) for e in ends]).amax(0)[:, None]
    paid = DOUBLE.gamma(16) * 4 * largest * (layout.total(after.abs()) + layout.total(before.abs()))
    return DOUBLE.above(paid, after[0].numel() + before[0].numel())


def _adjoint(term: Term, rows: Tensor) -> Tensor:
    return term.adjoint(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
