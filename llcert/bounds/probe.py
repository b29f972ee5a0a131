"""Rows that ask for every entry of a block at once, several in one backward pass where nothing they touch meets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.ir import Node
from llcert.layout import Shared, flat
from llcert.program import Block, Program, Term


@dataclass(frozen=True)
class Asking:
    """Rows that ask for entries of a block's value before its activation.

    rows: `[rows, *pre shape]`, boolean: where they are 1, elsewhere 0. asked: of the block's value. layouts: of every
    cut below it.
    """

    rows: Tensor
    asked: Shared
    layouts: Mapping[Node, Shared]

    @property
    def answered(self) -> Tensor:
        """The entries that these rows ask for, boolean `[entries]`."""
        return flat(self.rows).any(0)


@dataclass(frozen=True)
class Probe:
    """Which entries of a block's value may share a row: those of different positions of one group, in any channels.

    shape: of the value, `(1,)` for one number; all axes but the first are positions. groups: of each position,
    `[positions]`. layouts: of every cut below, of rows that ask for all positions of a group each, in all channels at
    once; owners are positions. A row that asks for fewer channels may be zero at some of what its positions own.
    """

    shape: tuple[int, ...]
    groups: Tensor
    layouts: Mapping[Node, Shared]

    @property
    def entries(self) -> int:
        """Entries that asking for everything takes, at all cuts together."""
        return self.shape[0] * sum(s.owners.numel() for s in self.layouts.values())

    def renamed(self, names: Mapping[Node, Node]) -> Probe:
        """The same for the same network in another program, whose nodes have these names."""
        return replace(self, layouts={names[n]: s for n, s in self.layouts.items()})

    def among(self, wanted: Tensor) -> Asking:
        """As few rows as ask for all wanted entries, boolean `[*shape]`, of these groups."""
        positions = len(self.groups)
        chosen = wanted.reshape(self.shape[0], positions)
        counts, order = chosen.sum(0), chosen.int().argsort(dim=0, descending=True, stable=True)
        most = counts.new_zeros(int(self.groups.max()) + 1).scatter_reduce(0, self.groups, counts, "amax")
        group = torch.arange(len(most), device=most.device).repeat_interleave(most)
        number = torch.cat([torch.arange(int(n), device=most.device) for n in most])
        entries = order * positions + torch.arange(positions, device=most.device)
        own = torch.where(number[:, None] < counts, entries[number], wanted.numel())  # [rows, positions]
        layouts = {n: _owned(s.owners[group], own, wanted.numel()) for n, s in self.layouts.items()}
        asked = torch.where(self.groups == group[:, None], own, wanted.numel())
        owners = asked.new_full((len(asked), wanted.numel() + 1), wanted.numel()).scatter(1, asked, asked)
        owners = owners[:, :-1].reshape(len(asked), *wanted.shape)
        return Asking(owners < wanted.numel(), Shared(owners, wanted.numel()), layouts)


def _owned(positions: Tensor, own: Tensor, count: int) -> Shared:
    """Owners in place of their positions. positions: `[rows, *shape]`. own: of each row, `[rows, positions]`."""
    padded = torch.cat((own, own.new_full((len(own), 1), count)), 1)
    return Shared(padded.gather(1, flat(positions)).reshape(positions.shape), count)


def probe(program: Program, index: int, largest: int) -> Probe | None:
    """How to ask for block number `index`, with `largest` entries at most over all cuts below.

    None, so that the box of the forward pass stands, where they would be more, and where an activation below is not
    said to keep entries apart and let rows pass. Entries that lie `p` apart along the spatial axes share a row, for the
    least p at which nothing they touch meets.
    """
    own = program.blocks[index].pre.shape
    shape = own or (1,)
    below = sum(torch.Size(n.shape).numel() for n in _cuts_below(program, index))
    for period in range(1, max((1, *shape[1:])) + 1):
        rows = shape[0] * math.prod(min(period, n) for n in shape[1:])
        if rows * below > largest:
            break
        owners = torch.stack(list(_groups(shape, period))).to(program.device)
        layouts = _below(program, index, owners.reshape(-1, *own), math.prod(shape[1:]))
        if layouts is None:
            return None
        if layouts:
            groups = (owners[:, 0] < math.prod(shape[1:])).int().argmax(0).flatten()
            return Probe(tuple(shape), groups, layouts)
    return None


def _cuts_below(program: Program, index: int) -> set[Node]:
    """Every cut that a block depends on."""
    found: set[Node] = set()
    for block in reversed(program.blocks[: index + 1]):
        if block is program.blocks[index] or block.node in found:
            found |= set(block.sources)
    return found


def _groups(shape: tuple[int, ...], period: int) -> Iterator[Tensor]:
    """Owner maps of the rows: every `period`-th position along the axes but the first, in all channels."""
    count = math.prod(shape[1:])
    places = torch.arange(count).reshape(1, *shape[1:]).expand(shape)
    for offset in itertools.product(*(range(min(period, n)) for n in shape[1:])):
        owners = torch.full(shape, count)
        chosen = (slice(None), *(slice(o, None, period) for o in offset))
        owners[chosen] = places[chosen]
        yield owners


def _below(program: Program, index: int, owners: Tensor, count: int) -> dict[Node, Shared] | None:
    """Owners at every cut below a block; empty where two meet, None where an activation is not said to keep entries
    apart and let rows pass."""
    pending: dict[Node, Tensor] = {}
    found: dict[Node, Shared] = {}
    if not _carry(program.blocks[index], owners, count, pending):
        return {}
    for block in reversed(program.blocks[:index]):
        if block.node not in pending:
            continue
        phi = block.activation
        if phi is not None and not (phi.entrywise and phi.relaxable):
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
    """Owners of a term's columns: `paths * sum of squares = (sum)^2` only where all that arrive are equal.

    None where two meet, and where counts are too large for float64 to tell.
    """
    reached = (owners < count).double()
    number = torch.where(owners < count, owners, 0).double()
    paths, sums, squares = (term.paths_back(x).round() for x in (reached, number, number.square()))
    both, twice = paths * squares, sums.square()
    exact = max(float(both.max()), float(twice.max())) < 2**53
    if not exact or bool((both != twice).any()):
        return None
    return torch.where(paths > 0, (sums / paths.clamp(min=1)).round(), count).long()
