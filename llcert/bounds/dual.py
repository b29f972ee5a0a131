"""The backward pass: lower bounds of linear functions of the logits, or of any value, down to the image (METHOD, 7).

A row on a block's value is carried through activations by their relaxations and through linear maps by adjoints. At
every block the sweep could also stop: what is pending there is bounded over box and ball (section 5 of METHOD), so
the paper's local bound and linear bound propagation are the two ends of one family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds.forward import Hidden, Trace
from llcert.bounds.margin import largest_increase
from llcert.ir import Node
from llcert.program import Block, Program, Term
from llcert.relaxation import Relaxation
from llcert.region import length

Key = tuple[Node, int]
"""A step of a block's activation."""


@dataclass(frozen=True)
class Choice:
    """What a backward pass may choose at a step; any slopes and any `lam >= 0` give a bound.

    slopes: `[batch, rows, *shape]`. lam: `[batch, rows]`.
    """

    slopes: Tensor
    lam: Tensor


Policy = Callable[[Key, Relaxation, Tensor], Choice]
"""Chooses at a step, for the rows that reach it."""


@dataclass(frozen=True)
class Tightest:
    """Slopes that are tightest over the box, and multipliers by a search; keeps what it chose."""

    chosen: dict[Key, Choice] = field(default_factory=dict)

    def __call__(self, key: Key, step: Relaxation, rows: Tensor) -> Choice:
        slopes = step.slopes(rows)
        self.chosen[key] = Choice(slopes, step.multipliers(rows, slopes))
        return self.chosen[key]


@dataclass(frozen=True)
class Chosen:
    """What was chosen before, as it is."""

    chosen: Mapping[Key, Choice]

    def __call__(self, key: Key, step: Relaxation, rows: Tensor) -> Choice:
        return self.chosen[key]


@dataclass(frozen=True)
class Backward:
    """Carries rows from the output of a program to its image."""

    program: Program

    @cached_property
    def offsets(self) -> dict[Node, Tensor]:
        """Every block's value before its activation where all sources are zero, `[1, *shape]`."""
        return {b.node: b.value({s: _zeros(self.program, s) for s in b.sources}) for b in self.program.blocks}

    def __call__(self, trace: Trace, rows: Mapping[Node, Tensor], policy: Policy, *, stops: bool = False) -> Tensor:
        """Lower bounds of `sum of rows . value` over the trace's regions, `[batch, rows]`: as sound as the trace.

        rows: on the values of some blocks (or the image), `[batch, rows, *shape]`. stops: the best of stopping
        at any block and of going down to the image; otherwise down to the image.
        An activation without relaxations is not passed: its output is bounded over its region.
        """
        pending = dict(rows)
        first = next(iter(rows.values()))
        constant = first.new_zeros(first.shape[:2])
        best = torch.full_like(constant, -torch.inf)
        for block in reversed(self.program.blocks):
            if block.node not in pending:
                continue
            if stops and block.activation is not None:
                value = constant + sum(self._end(trace, n, a) for n, a in pending.items())
                best = torch.fmax(best, value)
            a = pending.pop(block.node)
            steps = trace.steps(block)
            if steps is None:
                constant = constant + self._end(trace, block.node, a)
                continue
            for number, step in reversed(list(enumerate(steps))):
                inner, passing = step.enter(a)
                choice = policy((block.node, number), step, inner)
                constant = constant + step.constant(inner, choice.slopes, choice.lam)
                a = step.leave(choice.slopes * inner, passing)
            constant = constant + (a * self.offsets[block.node]).flatten(2).sum(-1)
            for term in block.terms:
                part = _adjoint(term, a)
                pending[term.source] = pending[term.source] + part if term.source in pending else part
        for node, a in pending.items():
            constant = constant + self._end(trace, node, a)
        return torch.fmax(best, constant) if stops else constant

    def _end(self, trace: Trace, node: Node, rows: Tensor) -> Tensor:
        """The least value of rows over the region of a node, `[batch, rows]`."""
        known = trace.hidden[node]
        at_centre = (rows * known.region.centre[:, None]).flatten(2).sum(-1)
        if node is self.program.input and not trace.clipped:
            return at_centre - known.region.radius[:, None] * length(rows, 2)
        return at_centre - largest_increase(-rows.flatten(2), known)


def _adjoint(term: Term, rows: Tensor) -> Tensor:
    return term.adjoint(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])


def _zeros(program: Program, node: Node) -> Tensor:
    return torch.zeros(1, *node.shape, dtype=program.dtype, device=program.device)
