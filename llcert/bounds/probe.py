"""Rows that ask for every entry of a block at once, several in one backward pass where nothing they touch meets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Node
from llcert.layout import Shared
from llcert.ops import Clamp, Leaky
from llcert.program import Block, Program, Term


@dataclass(frozen=True)
class Probe:
    """Rows that ask for every entry of a block's value before its activation.

    rows: `[rows, *pre shape]` of zeros and ones. asked: of the block's value. layouts: of every cut below it.
    """

    rows: Tensor
    asked: Shared
    layouts: Mapping[Node, Shared]

    @property
    def entries(self) -> int:
        """Entries of all rows together, at all cuts: what a backward pass holds."""
        return sum(s.owners.numel() for s in self.layouts.values())

    def among(self, wanted: Tensor) -> Probe:
        """The rows that ask for any of the wanted entries, boolean `[*pre shape]`, and so for their neighbours too."""
        known = torch.cat((wanted.flatten(), wanted.new_zeros(1)))
        kept = torch.nonzero(known[self.asked.owners].flatten(1).any(1))[:, 0]
        layouts = {n: Shared(s.owners[kept], s.count) for n, s in self.layouts.items()}
        return Probe(self.rows[kept], Shared(self.asked.owners[kept], self.asked.count), layouts)

    @property
    def answered(self) -> Tensor:
        """The entries that these rows ask for, boolean `[entries]`."""
        found = torch.zeros(self.asked.count + 1, dtype=torch.bool, device=self.rows.device)
        found[self.asked.owners.flatten()] = True
        return found[:-1]


def probe(program: Program, index: int, largest: int) -> Probe | None:
    """The rows for block number `index`, as few as there may be, `largest` entries at most over all cuts below.

    None where they would be more, and where an activation below mixes entries. Entries that lie `p` apart along the
    spatial axes share a row, for the least p at which nothing they touch meets.
    """
    shape = program.blocks[index].pre.shape
    below = sum(torch.Size(n.shape).numel() for n in _cuts_below(program, index))
    for period in range(1, max((1, *shape[1:])) + 1):
        rows = shape[0] * math.prod(min(period, n) for n in shape[1:])
        if rows * below > largest:
            break
        owners = torch.stack(list(_groups(shape, period))).to(program.device)
        layouts = _below(program, index, owners, torch.Size(shape).numel())
        if layouts is None:
            return None
        if layouts:
            asked = Shared(owners, torch.Size(shape).numel())
            return Probe((owners < asked.count).to(program.dtype), asked, layouts)
    return None


def _cuts_below(program: Program, index: int) -> set[Node]:
    """Every cut that a block depends on."""
    found: set[Node] = set()
    for block in reversed(program.blocks[: index + 1]):
        if block is program.blocks[index] or block.node in found:
            found |= set(block.sources)
    return found


def _groups(shape: tuple[int, ...], period: int) -> Iterator[Tensor]:
    """Owner maps of the rows: one channel each, every `period`-th position along the other axes."""
    count = torch.Size(shape).numel()
    places = torch.arange(count).reshape(shape)
    for channel in range(shape[0]):
        for offset in itertools.product(*(range(min(period, n)) for n in shape[1:])):
            owners = torch.full(shape, count)
            chosen = (slice(channel, channel + 1), *(slice(o, None, period) for o in offset))
            owners[chosen] = places[chosen]
            yield owners


def _below(program: Program, index: int, owners: Tensor, count: int) -> dict[Node, Shared] | None:
    """Owners at every cut below a block; empty where two meet, None where an activation mixes entries."""
    pending: dict[Node, Tensor] = {}
    found: dict[Node, Shared] = {}
    if not _carry(program.blocks[index], owners, count, pending):
        return {}
    for block in reversed(program.blocks[:index]):
        if block.node not in pending:
            continue
        if not isinstance(block.activation, Clamp | Leaky | None):
            return None
        found[block.node] = Shared(pending[block.node], count)
        if not _carry(block, pending[block.node], count, pending):
            return {}
    return found | {program.input: Shared(pending[program.input], count)}


def _carry(block: Block, owners: Tensor, count: int, pending: dict[Node, Tensor]) -> bool:
    """Hands the owners of a block's value on to its sources; False where two of them meet."""
    for term in block.terms:
        arriving = _through(term, owners, count)
        if arriving is None:
            return False
        before = pending.get(term.source)
        if before is not None:
            both = (before < count) & (arriving < count)
            if bool((before != arriving)[both].any()):
                return False
            arriving = torch.minimum(before, arriving)
        pending[term.source] = arriving
    return True


def _through(term: Term, owners: Tensor, count: int) -> Tensor | None:
    """Owners of a term's columns: `paths * sum of squares = (sum)^2` only where all that arrive are equal."""
    reached = (owners < count).double()
    number = torch.where(owners < count, owners, 0).double()
    paths, sums, squares = (term.paths_back(x).round() for x in (reached, number, number.square()))
    if bool((paths * squares != sums.square()).any()):
        return None
    return torch.where(paths > 0, (sums / paths.clamp(min=1)).round(), count).long()
