"""Intermediate bounds: boxes of pre-activations by backward passes (docs/method.md, section 10).

For the stages `crown-ball-intermediate` and `branch` and their proofs, which propagate forward once more within them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from llcert.bounds.backward.choices import Key, tightest
from llcert.bounds.backward.coloring import ColoredRows, Coloring, colorable, coloring
from llcert.bounds.backward.crown import Backward, BackwardBounds
from llcert.bounds.forward.trace import Trace
from llcert.ir import Node
from llcert.program import Program

LARGEST = 2**21
"""The largest number of coefficients, for one image, in the rows of a block; larger blocks keep their forward boxes."""

_COEFFICIENTS = 2**19
"""Coefficients of rows that are computed together, over all images: about what a processor's cache holds."""


def candidates(program: Program) -> list[int]:
    """The numbers of the blocks that may have intermediate bounds.

    They have an activation, the activations below them are entrywise and have a relaxation, and they are not too wide.
    Not the first block: its forward box is exact.
    """
    blocks = list(enumerate(program.blocks))[1:]
    return [i for i, block in blocks if block.activation is not None and colorable(program, i, LARGEST)]


def colorings(program: Program) -> dict[int, Coloring]:
    """The coloring of every candidate, by its number, where its rows are small enough."""
    found = {index: coloring(program, index, LARGEST) for index in candidates(program)}
    return {index: colored for index, colored in found.items() if colored is not None}


@dataclass(frozen=True)
class Colorings:
    """The colorings of a program's blocks, computed at their first use.

    other: the colorings of the same network in a format at least as fine, which are taken over where they are given. A
    coarser format would not do: a coefficient that underflows there is not counted as a path between two entries.
    """

    program: Program
    other: Colorings | None = None

    @cached_property
    def by_block(self) -> dict[int, Coloring]:
        """The coloring of each block, by its number."""
        mine = _nodes(self.program)
        theirs = [] if self.other is None else _nodes(self.other.program)
        if self.other is None or [n.shape for n in mine] != [n.shape for n in theirs]:
            return colorings(self.program)
        names = dict(zip(theirs, mine, strict=True))
        return {index: c.renamed(names) for index, c in self.other.by_block.items()}


def _nodes(program: Program) -> list[Node]:
    return [program.input, *(b.node for b in program.blocks)]


@dataclass(frozen=True)
class IntermediateBounds:
    """Bounds of the pre-activation of one block by backward passes.

    ends: lower and upper bounds, `[batch, *pre shape]`, infinite for entries without a row. bounded: the entries with a
    row, boolean `[batch, entries]`. lam: the multipliers of every relaxation below, of the lower and of the upper bound
    of each entry, `[batch, entries]` both. paid: what was subtracted for the rounding of the pass, without that of
    evaluations of the network, the larger of both sides, `[batch, *pre shape]`.
    """

    ends: tuple[Tensor, Tensor]
    bounded: Tensor
    lam: Mapping[Key, tuple[Tensor, Tensor]]
    paid: Tensor

    def select(self, images: Tensor) -> IntermediateBounds:
        """The bounds of some images; images: mask or index."""
        lower, upper = (end[images] for end in self.ends)
        lam = {k: (low[images], high[images]) for k, (low, high) in self.lam.items()}
        return IntermediateBounds((lower, upper), self.bounded[images], lam, self.paid[images])

    @staticmethod
    def joined(parts: Sequence[IntermediateBounds]) -> IntermediateBounds:
        """The bounds of the images of several parts, at least one."""
        keys = dict.fromkeys(k for p in parts for k in p.lam)
        none = [(torch.zeros_like(p.bounded, dtype=p.paid.dtype),) * 2 for p in parts]
        lam = {k: _cat([p.lam.get(k, n) for p, n in zip(parts, none, strict=True)]) for k in keys}
        bounded, paid = torch.cat([p.bounded for p in parts]), torch.cat([p.paid for p in parts])
        return IntermediateBounds(_cat([p.ends for p in parts]), bounded, lam, paid)


def _cat(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


def intermediate_bounds(
    backward: Backward, trace: Trace, by_block: Mapping[int, Coloring]
) -> dict[Node, IntermediateBounds]:
    """Bounds of the pre-activations of blocks over the regions of a trace, by the blocks' nodes.

    As sound as the trace; if the trace pays for rounding, so do these. by_block: colorings, by the number of the block.
    """
    found: dict[Node, IntermediateBounds] = {}
    for index, colored in by_block.items():
        block = backward.program.blocks[index]
        images = torch.arange(len(trace.pre_activation[block.node].centre), device=backward.program.device)
        together = max(_COEFFICIENTS // colored.coefficients, 1)
        parts = [_of_block(backward, trace.select(some), index, colored) for some in images.split(together)]
        found[block.node] = IntermediateBounds.joined(parts)
    return found


def _of_block(backward: Backward, trace: Trace, index: int, colored: Coloring) -> IntermediateBounds:
    """The bounds of one block, for the entries that are unstable for at least one image; for all where the activation
    mixes entries."""
    block = backward.program.blocks[index]
    z = trace.pre_activation[block.node]
    relaxations = trace.relaxations(block)
    unstable = torch.ones_like(z.lower, dtype=torch.bool)
    if relaxations is not None and len(relaxations) == 1 and relaxations[0].zone.centre.shape == z.centre.shape:
        unstable = ~relaxations[0].stable[0][:, 0]
    rows = colored.rows_for(unstable.any(0))
    infinite = torch.full_like(z.lower, torch.inf)
    bounded = rows.bounded.expand(len(infinite), -1)
    if len(rows.rows) == 0:
        return IntermediateBounds((-infinite, infinite), bounded, {}, torch.zeros_like(infinite))
    ones = rows.rows.to(z.lower)
    lower, negated = (_lower(backward, trace, index, sign * ones, rows) for sign in (1.0, -1.0))
    inside = bounded.reshape(infinite.shape)
    least, most, paid = (
        x.reshape(infinite.shape) for x in (lower.lower, negated.lower, torch.maximum(lower.paid, negated.paid))
    )
    ends = torch.where(inside, least, -infinite), torch.where(inside, -most, infinite)
    lam = {k: (c.lam, negated.linear.choices[k].lam) for k, c in lower.linear.choices.items()}
    return IntermediateBounds(ends, bounded, lam, paid)


def _lower(backward: Backward, trace: Trace, index: int, rows: Tensor, colored: ColoredRows) -> BackwardBounds:
    """Lower bounds of rows on a block's pre-activation."""
    batch = len(trace.pre_activation[backward.program.blocks[index].node].centre)
    policy = partial(tightest, iterations=2)
    every = rows.expand(batch, *rows.shape)
    return backward.of_pre_activation(
        trace, index, every, policy, sharing=colored.sharing, sharing_below=colored.sharing_below
    )
