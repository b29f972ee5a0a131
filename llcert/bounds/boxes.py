"""Intermediate bounds: boxes of pre-activations by backward passes (docs/method.md, section 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds.choices import Key, Tightest
from llcert.bounds.dual import Backward, BackwardBounds
from llcert.bounds.forward.trace import Trace
from llcert.bounds.probe import Asking, Probe, probe
from llcert.ir import Node
from llcert.program import Program

LARGEST = 2**21
"""Entries that asking for one block's box may take, for one image; larger blocks keep the boxes they have."""

_ENTRIES = 2**19
"""Entries that are carried at a time, over all images: about what a processor's cache holds."""


def probes(program: Program) -> dict[int, Probe]:
    """The rows that ask for the box of each block that has an activation, by its number, where they are affordable.

    The first block's box is exact already.
    """
    found: dict[int, Probe] = {}
    for index, block in enumerate(program.blocks):
        if index == 0 or block.activation is None:
            continue
        asked = probe(program, index, LARGEST)
        if asked is not None:
            found[index] = asked
    return found


@dataclass(frozen=True)
class Asked:
    """What asks for the boxes of a program's blocks, found when it is first wanted.

    other: the same network's, in numbers at least as fine; what was found there serves here. Coarser ones would not do:
    a factor that vanishes in them is no way from an entry to another, and a proof in float64 would not see it.
    """

    program: Program
    other: Asked | None = None

    @cached_property
    def probes(self) -> dict[int, Probe]:
        """The rows for each block, by its number."""
        mine = _nodes(self.program)
        theirs = [] if self.other is None else _nodes(self.other.program)
        if self.other is None or [n.shape for n in mine] != [n.shape for n in theirs]:
            return probes(self.program)
        names = dict(zip(theirs, mine, strict=True))
        return {index: p.renamed(names) for index, p in self.other.probes.items()}


def _nodes(program: Program) -> list[Node]:
    return [program.input, *(b.node for b in program.blocks)]


@dataclass(frozen=True)
class BackwardBox:
    """Intermediate bounds of one block: of its value before the activation, by the backward pass.

    ends: lower and upper bounds, `[batch, *pre shape]`, infinite where they were not asked for. asked: of which
    entries they were, boolean `[batch, entries]`. lam: multipliers of every step that was passed, for the lower and for
    the upper bound of each entry, `[batch, entries]` both. paid: what the bounds pay for rounding, the larger of the
    two, `[batch, *pre shape]`.
    """

    ends: tuple[Tensor, Tensor]
    asked: Tensor
    lam: Mapping[Key, tuple[Tensor, Tensor]]
    paid: Tensor

    def select(self, images: Tensor) -> BackwardBox:
        """The bounds of some images; images: mask or index."""
        lower, upper = (end[images] for end in self.ends)
        lam = {k: (low[images], high[images]) for k, (low, high) in self.lam.items()}
        return BackwardBox((lower, upper), self.asked[images], lam, self.paid[images])

    @staticmethod
    def joined(parts: Sequence[BackwardBox]) -> BackwardBox:
        """The bounds of all images of several, at least one."""
        keys = dict.fromkeys(k for p in parts for k in p.lam)
        none = [(torch.zeros_like(p.asked, dtype=p.paid.dtype),) * 2 for p in parts]
        lam = {k: _cat([p.lam.get(k, n) for p, n in zip(parts, none, strict=True)]) for k in keys}
        asked, paid = torch.cat([p.asked for p in parts]), torch.cat([p.paid for p in parts])
        return BackwardBox(_cat([p.ends for p in parts]), asked, lam, paid)


def _cat(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


def backward_boxes(backward: Backward, trace: Trace, asked: Mapping[int, Probe]) -> dict[Node, BackwardBox]:
    """Bounds of some blocks' values before their activation, by their nodes.

    As sound as the trace, whose rounding they pay for if it does. asked: as `probes` finds them.
    """
    boxes: dict[Node, BackwardBox] = {}
    for index, rows in asked.items():
        block = backward.program.blocks[index]
        images = torch.arange(len(trace.pre_activation[block.node].centre), device=backward.program.device)
        parts = [_box(backward, trace.select(some), index, rows) for some in images.split(_at_once(rows))]
        boxes[block.node] = BackwardBox.joined(parts)
    return boxes


def _at_once(rows: Probe) -> int:
    return max(_ENTRIES // rows.entries, 1)


def _box(backward: Backward, trace: Trace, index: int, rows: Probe) -> BackwardBox:
    """Bounds of a block's value; not asked for where the activation is a line for every image anyway, on its box as it
    is known."""
    block = backward.program.blocks[index]
    z = trace.pre_activation[block.node]
    steps = trace.steps(block)
    bent = torch.ones_like(z.lower, dtype=torch.bool)
    if steps is not None and len(steps) == 1 and steps[0].zone.centre.shape == z.centre.shape:  # not one that sorts
        bent = ~steps[0].settled[0][:, 0]
    asked = rows.among(bent.any(0))
    infinite = torch.full_like(z.lower, torch.inf)
    everywhere = asked.answered.expand(len(infinite), -1)
    if len(asked.rows) == 0:
        return BackwardBox((-infinite, infinite), everywhere, {}, torch.zeros_like(infinite))
    ones = asked.rows.to(z.lower)
    lower, negated = (_lower(backward, trace, index, sign * ones, asked) for sign in (1.0, -1.0))
    answered = everywhere.reshape(infinite.shape)
    least, most, paid = (
        x.reshape(infinite.shape) for x in (lower.lower, negated.lower, torch.maximum(lower.paid, negated.paid))
    )
    ends = torch.where(answered, least, -infinite), torch.where(answered, -most, infinite)
    lam = {k: (c.lam, negated.choices[k].lam) for k, c in lower.choices.items()}
    return BackwardBox(ends, everywhere, lam, paid)


def _lower(backward: Backward, trace: Trace, index: int, rows: Tensor, asked: Asking) -> BackwardBounds:
    """Lower bounds of one side of a block's value."""
    batch = len(trace.pre_activation[backward.program.blocks[index].node].centre)
    policy = Tightest(iterations=2)
    every = rows.expand(batch, *rows.shape)
    return backward.before(trace, index, every, policy, layouts=asked.layouts, layout=asked.asked)
