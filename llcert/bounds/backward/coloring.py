"""Graph colouring for backward passes: groups of pre-activation entries whose rows are structurally orthogonal.

No entry of any earlier value is read by two entries of a group, so that these share one row. Groups are regular: all
positions of one offset modulo a period. For intermediate bounds; docs/method.md, Proposition 10.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.domain.row_sharing import SharedRows
from llcert.ir import Node
from llcert.numerics.counts import sole_owner
from llcert.numerics.tensors import flat
from llcert.program import Block, Program, Term


@dataclass(frozen=True)
class ColoredRows:
    """Rows of coefficients on a block's pre-activation, each for several entries.

    rows: `[rows, *pre shape]`, boolean: coefficient 1 where true, else 0. sharing: the entry that each coefficient
    counts towards. sharing_below: likewise of the coefficients that these become on every earlier value.
    """

    rows: Tensor
    sharing: SharedRows
    sharing_below: Mapping[Node, SharedRows]

    @property
    def bounded(self) -> Tensor:
        """The entries that these rows bound, boolean `[entries]`."""
        return flat(self.rows).any(0)


@dataclass(frozen=True)
class Coloring:
    """Which entries of a pre-activation may share a row: those at different positions of one group, in any channels.

    shape: of the value, `(1,)` for one number; all axes but the first are positions. groups: of each position,
    `[positions]`. sharing_below: on every earlier value, that of one row for each group, with coefficient 1 at all
    positions of the group and in all channels; owners are positions. A row with fewer channels may be zero at some of
    the entries that its positions own.
    """

    shape: tuple[int, ...]
    groups: Tensor
    sharing_below: Mapping[Node, SharedRows]

    @property
    def coefficients(self) -> int:
        """The number of coefficients, on all earlier values together, of the rows that bound every entry."""
        return self.shape[0] * sum(s.owners.numel() for s in self.sharing_below.values())

    def renamed(self, names: Mapping[Node, Node]) -> Coloring:
        """The coloring of the same network in another program; names: that program's node for each node of this one."""
        return replace(self, sharing_below={names[n]: s for n, s in self.sharing_below.items()})

    def rows_for(self, wanted: Tensor) -> ColoredRows:
        """As few rows of these groups as bound all wanted entries; wanted: boolean `[*shape]`."""
        positions = len(self.groups)
        chosen = wanted.reshape(self.shape[0], positions)
        counts, order = chosen.sum(0), chosen.int().argsort(dim=0, descending=True, stable=True)
        most = counts.new_zeros(int(self.groups.max()) + 1).scatter_reduce(0, self.groups, counts, "amax")
        group = torch.arange(len(most), device=most.device).repeat_interleave(most)
        number = torch.cat([torch.arange(int(n), device=most.device) for n in most])
        entries = order * positions + torch.arange(positions, device=most.device)
        own = torch.where(number[:, None] < counts, entries[number], wanted.numel())  # [rows, positions]
        sharing_below = {n: _owned(s.owners[group], own, wanted.numel()) for n, s in self.sharing_below.items()}
        bounded = torch.where(self.groups == group[:, None], own, wanted.numel())
        owners = bounded.new_full((len(bounded), wanted.numel() + 1), wanted.numel()).scatter(1, bounded, bounded)
        owners = owners[:, :-1].reshape(len(bounded), *wanted.shape)
        return ColoredRows(owners < wanted.numel(), SharedRows(owners, wanted.numel()), sharing_below)


def _owned(positions: Tensor, own: Tensor, count: int) -> SharedRows:
    """The sharing with entries as owners in place of positions.

    positions: the owners, `[rows, *shape]`. own: the entry of each position, `[rows, positions]`. count: of entries.
    """
    padded = torch.cat((own, own.new_full((len(own), 1), count)), 1)
    return SharedRows(padded.gather(1, flat(positions)).reshape(positions.shape), count)


def colorable(program: Program, index: int, largest: int) -> bool:
    """Whether block number `index` may have a coloring: all activations below it are entrywise and have a relaxation,
    and rows for the entries of one position have at most `largest` coefficients on all earlier values together."""
    values = _values_below(program, index)
    below = [b.activation for b in program.blocks if b.node in values]
    apart = all(phi is None or (phi.entrywise and phi.relaxable) for phi in below)
    return apart and (program.blocks[index].pre.shape or (1,))[0] * _entries(values) <= largest


def coloring(program: Program, index: int, largest: int) -> Coloring | None:
    """The coloring of block number `index`, with at most `largest` coefficients on all earlier values together.

    Entries that lie `p` apart along the spatial axes share a row, for the least admissible p. None where
    there would be more coefficients, and where an activation below mixes entries or has no relaxation.
    """
    own = program.blocks[index].pre.shape
    shape = own or (1,)
    below = _entries(_values_below(program, index))
    for period in range(1, max((1, *shape[1:])) + 1):
        rows = shape[0] * math.prod(min(period, n) for n in shape[1:])
        if rows * below > largest:
            break
        owners = torch.stack(list(_groups(shape, period))).to(program.device)
        sharing_below = _below(program, index, owners.reshape(-1, *own), math.prod(shape[1:]))
        if sharing_below is None:
            return None
        if sharing_below:
            groups = (owners[:, 0] < math.prod(shape[1:])).int().argmax(0).flatten()
            return Coloring(tuple(shape), groups, sharing_below)
    return None


def _values_below(program: Program, index: int) -> set[Node]:
    """The outputs of earlier blocks, and the image, that a block depends on."""
    found: set[Node] = set()
    for block in reversed(program.blocks[: index + 1]):
        if block is program.blocks[index] or block.node in found:
            found |= set(block.sources)
    return found


def _entries(values: Iterable[Node]) -> int:
    """The number of entries of all these values together."""
    return sum(torch.Size(n.shape).numel() for n in values)


def _groups(shape: tuple[int, ...], period: int) -> Iterator[Tensor]:
    """Owner maps of the rows: every `period`-th position along the axes but the first, in all channels."""
    count = math.prod(shape[1:])
    places = torch.arange(count).reshape(1, *shape[1:]).expand(shape)
    for offset in itertools.product(*(range(min(period, n)) for n in shape[1:])):
        owners = torch.full(shape, count)
        chosen = (slice(None), *(slice(o, None, period) for o in offset))
        owners[chosen] = places[chosen]
        yield owners


def _below(program: Program, index: int, owners: Tensor, count: int) -> dict[Node, SharedRows] | None:
    """The owners of the entries of every value that a block depends on, from those of its pre-activation.

    Empty where an entry would have two owners; None where an activation mixes entries or has no relaxation.
    """
    pending: dict[Node, Tensor] = {}
    found: dict[Node, SharedRows] = {}
    if not _pass_on(program.blocks[index], owners, count, pending):
        return {}
    for block in reversed(program.blocks[:index]):
        if block.node not in pending:
            continue
        phi = block.activation
        if phi is not None and not (phi.entrywise and phi.relaxable):
            return None
        found[block.node] = SharedRows(pending[block.node], count)
        if not _pass_on(block, pending[block.node], count, pending):
            return {}
    return found | {program.input: SharedRows(pending[program.input], count)}


def _pass_on(block: Block, owners: Tensor, count: int, pending: dict[Node, Tensor]) -> bool:
    """Passes the owners of a block's value on to its sources, into `pending`; False where an entry would have two."""
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
    """Owners of a term's columns, from those of its rows. `count` stands for no owner.

    A column has one owner exactly if the numbers of the owners that reach it are equal, that is if the number of paths
    times the sum of their squares is the square of their sum. None where a column would have two owners, and where the
    counts are too large to be exact in float64.
    """
    reached = (owners < count).double()
    number = torch.where(owners < count, owners, 0).double()
    paths, sums, squares = (term.paths_back(x).round() for x in (reached, number, number.square()))
    owner = sole_owner(paths, sums, squares)
    return None if owner is None else torch.where(paths > 0, owner, count)
