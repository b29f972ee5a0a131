"""The backward pass (CROWN) over box and ball: lower bounds of linear functions of values (docs/method.md, section 9).

An objective is a row of coefficients on some values. Block by block, from the logits to the image, it passes
activations by their relaxations and linear maps by their adjoints (`through_block`). At any block it may stop: what is
left is then concretized over the boxes and balls of the values it acts on (`concretize`). Stopped at the last hidden
values it is the paper's local bound, at the image linear bound propagation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from llcert.bounds.backward.choices import Policy, fixed, tightest
from llcert.bounds.backward.concretize import concretized, concretized_at
from llcert.bounds.backward.linear_bound import LinearBound, LowerSum
from llcert.bounds.backward.through_block import through_activation, through_linear_map
from llcert.bounds.forward.trace import Trace
from llcert.domain.row_sharing import UNSHARED, RowSharing
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE
from llcert.program import Block, Program

_ENTRIES = 2**21
"""The largest number of coefficients, at all activations, of rows that are computed together."""


@dataclass(frozen=True)
class BackwardBounds:
    """Lower bounds of objectives, and the linear bound that gives them.

    lower: `[batch, bounds]`. paid: what the concretized linear bound pays for the rounding of the pass itself, without
    that of evaluations of the network, `[batch, bounds]`. linear: where the pass ended; where an earlier stop is
    better, `lower` is the bound of that.
    """

    lower: Tensor
    paid: Tensor
    linear: LinearBound


@dataclass(frozen=True)
class Backward:
    """Backward passes through a program.

    clip: whether what is left at the image is bounded over its ball and its box, which a pixel range narrows; else over
    its ball alone.
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
        self, trace: Trace, objectives: Mapping[Node, Tensor], policy: Policy, *, best_stop: bool = False
    ) -> BackwardBounds:
        """Lower bounds of `sum of objectives[h] . h` over the trace's regions, `[batch, rows]`: as sound as the trace.

        A trace that pays for rounding makes the backward pass pay for its own. objectives: coefficients on the outputs
        of some blocks, `[batch, rows, *shape]`. best_stop: the best of stopping at any activation and of going down to
        the image; else down to the image. An activation that has no relaxation is not passed: its output is
        concretized.
        """
        return self._down(trace, _start(trace, objectives), policy, best_stop=best_stop)

    def closed_form(self, trace: Trace, directions: Tensor) -> Tensor:
        """Lower bounds of rows on the logits by the tightest slopes, the best stop of each, `[batch, rows]`.

        In parts that fit the memory. directions: `[batch, rows, logits]`.
        """
        count, found = directions.shape[1], []
        for images in torch.arange(len(directions), device=directions.device).split(self._fitting(count)):
            own = trace.select(images)
            parts = directions[images].split(self._fitting(len(images)), 1)
            bounds = [self(own, {self.program.output: rows}, tightest, best_stop=True).lower for rows in parts]
            found.append(torch.cat(bounds, 1))
        return torch.cat(found)

    def _fitting(self, times: int) -> int:
        """How many fit where each stands for several rows."""
        return max(self.rows_at_once // max(times, 1), 1)

    def of_pre_activation(
        self,
        trace: Trace,
        index: int,
        rows: Tensor,
        policy: Policy,
        *,
        best_stop: bool = False,
        sharing: RowSharing = UNSHARED,
        sharing_below: Mapping[Node, RowSharing] = MappingProxyType({}),
    ) -> BackwardBounds:
        """Lower bounds of rows on the pre-activation of block number `index`, `[batch, bounds]`, like `__call__`.

        sharing: of these rows. sharing_below: of the coefficients that they become, by the value these act on.
        """
        linear = LinearBound({}, _nothing(trace, sharing.sums(torch.zeros_like(rows))), sharing_below)
        linear = self._through_linear_map(trace, linear, index, rows, sharing)
        return self._down(trace, linear, policy, best_stop=best_stop)

    def at_every_stop(
        self, trace: Trace, objectives: Mapping[Node, Tensor], policy: Policy
    ) -> dict[Node, BackwardBounds]:
        """The bounds of every stop from the logits down to the image, or to an activation that has no relaxation.

        By the block whose output the pass would replace next; the last by the input.
        """
        linear, found = _start(trace, objectives), dict[Node, BackwardBounds]()
        for index, block in self._downwards():
            if block.node not in linear.coefficients:
                continue
            found[block.node] = self._stopped(trace, linear)
            if trace.relaxations(block) is None:
                return found
            linear = self._through(trace, linear, index, policy)
        return found | {self.program.input: self._stopped(trace, linear)}

    def at_last_hidden(self, trace: Trace, directions: Tensor) -> BackwardBounds:
        """Bounds of rows on the logits, stopped at the last hidden values (docs/method.md, section 8), or at logits
        behind an activation. directions: `[batch, rows, logits]`."""
        linear, last = _start(trace, {self.program.output: directions}), len(self.program.blocks) - 1
        if self.program.blocks[last].activation is None:
            linear = self._through(trace, linear, last, fixed({}))
        return self._stopped(trace, linear)

    def _downwards(self) -> Iterator[tuple[int, Block]]:
        return reversed(list(enumerate(self.program.blocks)))

    def _down(self, trace: Trace, linear: LinearBound, policy: Policy, *, best_stop: bool) -> BackwardBounds:
        """Takes a linear bound down to the image; what cannot be relaxed on the way is concretized."""
        best = torch.full_like(linear.constant.value, -torch.inf)
        for index, block in self._downwards():
            if block.node not in linear.coefficients:
                continue
            if best_stop and block.activation is not None:
                best = torch.fmax(best, self._stopped(trace, linear).lower)
            if trace.relaxations(block) is None:
                linear = concretized_at(block.node, linear, trace)
            else:
                linear = self._through(trace, linear, index, policy)
        end = self._stopped(trace, linear)
        return BackwardBounds(torch.fmax(best, end.lower), end.paid, linear)

    def _through(self, trace: Trace, linear: LinearBound, index: int, policy: Policy) -> LinearBound:
        """The linear bound with a block's output replaced by the values that the block reads."""
        sharing = linear.sharing_at(self.program.blocks[index].node)
        linear, g = through_activation(linear, trace, self.program, index, policy)
        return self._through_linear_map(trace, linear, index, g, sharing)

    def _through_linear_map(
        self, trace: Trace, linear: LinearBound, index: int, g: Tensor, sharing: RowSharing
    ) -> LinearBound:
        offset = self.offsets[self.program.blocks[index].node]
        return through_linear_map(linear, g, trace, self.program, index, offset, sharing)

    def _stopped(self, trace: Trace, linear: LinearBound) -> BackwardBounds:
        """The bounds where the pass stops: everything that is left concretized."""
        end = concretized(linear, trace, self.program.input, clip=self.clip)
        return BackwardBounds(end.lower, end.paid, linear)


def differences(labels: Tensor, program: Program) -> Tensor:
    """The rows `e_y - e_j` on the logits, `[batch, logits, logits]`."""
    unit = torch.eye(program.output.shape[0], dtype=program.dtype, device=program.device)
    return unit[labels][:, None] - unit


def _start(trace: Trace, objectives: Mapping[Node, Tensor]) -> LinearBound:
    """The objectives themselves as a linear bound."""
    like = next(iter(objectives.values()))
    return LinearBound(objectives, _nothing(trace, like.new_zeros(like.shape[:2])))


def _nothing(trace: Trace, zero: Tensor) -> LowerSum:
    """The empty sum; it pays for rounding where the trace does."""
    return LowerSum.of(zero, DOUBLE if trace.roundoff is not None else None)
