"""Intermediate bounds: boxes of pre-activations by backward passes (docs/method.md, section 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds.dual import Backward, Tightest
from llcert.bounds.forward.trace import Trace
from llcert.bounds.probe import Asking, Probe, probe
from llcert.ir import Node
from llcert.layout import flat
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


def backward_boxes(backward: Backward, trace: Trace, asked: Mapping[int, Probe]) -> dict[Node, tuple[Tensor, Tensor]]:
    """Lower and upper bounds of some blocks' values before their activation, `[batch, *pre shape]` each.

    As sound as the trace, whose rounding they pay for if it does. asked: as `probes` finds them.
    """
    boxes: dict[Node, tuple[Tensor, Tensor]] = {}
    for index, rows in asked.items():
        block = backward.program.blocks[index]
        images = torch.arange(len(trace.pre_activation[block.node].centre), device=backward.program.device)
        parts = [_sides(backward, trace.select(some), index, rows) for some in images.split(_at_once(rows))]
        lower, upper = (torch.cat(side).reshape(len(images), *block.pre.shape) for side in zip(*parts, strict=True))
        boxes[block.node] = lower, upper
    return boxes


def _at_once(rows: Probe) -> int:
    return max(_ENTRIES // rows.entries, 1)


def _sides(backward: Backward, trace: Trace, index: int, rows: Probe) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of a block's value, `[batch, entries]`; infinite where the activation is a line for every
    image anyway, on its box as it is known."""
    block = backward.program.blocks[index]
    z = trace.pre_activation[block.node]
    steps = trace.steps(block)
    bent = torch.ones_like(z.lower, dtype=torch.bool)
    if steps is not None and len(steps) == 1 and steps[0].zone.centre.shape == z.centre.shape:  # not one that sorts
        bent = ~steps[0].settled[0][:, 0]
    asked = rows.among(bent.any(0))
    if len(asked.rows) == 0:
        unknown = torch.full_like(flat(z.lower), torch.inf)
        return -unknown, unknown
    ones = asked.rows.to(z.lower)
    lower, negated = (_lower(backward, trace, index, sign * ones, asked) for sign in (1.0, -1.0))
    return torch.where(asked.answered, lower, -torch.inf), torch.where(asked.answered, -negated, torch.inf)


def _lower(backward: Backward, trace: Trace, index: int, rows: Tensor, asked: Asking) -> Tensor:
    """Lower bounds of one side of a block's box, `[batch, entries]`."""
    batch = len(trace.pre_activation[backward.program.blocks[index].node].centre)
    policy = Tightest(iterations=2)
    every = rows.expand(batch, *rows.shape)
    return backward.before(trace, index, every, policy, layouts=asked.layouts, layout=asked.asked).lower
