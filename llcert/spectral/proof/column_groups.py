"""Structurally orthogonal columns of a linear map: groups of columns of which no two have an entry in one row.

One product with the sum of their unit vectors finds all columns of a group (Curtis, Powell and Reid 1974). Groups are
regular: columns whose coordinates agree modulo a period on every axis, as those of a convolution that are further apart
than its kernel. Whether a period is admissible is decided exactly, on counts of paths. docs/method.md, section 7.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.numerics.counts import sole_owner
from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Provable

CANDIDATES = (1, 2, 3, 4, 5, 6, 8)
"""Periods that are tried, in this order."""

EXACT = 2.0**40
"""Counts of paths below this are exact in float64 once they are rounded to integers, averages on the way included."""


@dataclass(frozen=True)
class Axis:
    """An axis of the input of a map, and an admissible period of it.

    A period is admissible if no row has coefficients of two entries whose coordinates on this axis differ by a multiple
    of it, whatever their coordinates on the other axes.

    size: length of the axis.
    owner: `[period, outputs]`. Of the coordinates `offset + period i`, an output depends on one i alone: this one;
        arbitrary where it depends on none.
    """

    size: int
    period: int
    owner: Tensor


def axes_of(map_: Provable, device: torch.device) -> tuple[Axis, ...]:
    """Every axis of the input with its least admissible period among `CANDIDATES`, else with its length as period."""
    return tuple(_axis(map_, axis, device) for axis in range(len(map_.columns)))


def _axis(map_: Provable, axis: int, device: torch.device) -> Axis:
    """One axis of the input with its least admissible period."""
    size = map_.columns[axis]
    for period in (p for p in CANDIDATES if p < size):
        owner = _owners(map_, axis, period, device)
        if owner is not None:
            return Axis(size, period, owner)
    return Axis(size, size, torch.zeros(size, 1, dtype=torch.int64, device=device))


def _owners(map_: Provable, axis: int, period: int, device: torch.device) -> Tensor | None:
    """`Axis.owner` for a period; None where the period is not admissible."""
    entries = torch.zeros(3, period, *map_.columns, dtype=torch.float64, device=device)
    along = entries.movedim(2 + axis, -1)
    for offset in range(period):
        coordinates = torch.arange(len(range(offset, map_.columns[axis], period)), device=device).double()
        for power in range(3):
            along[power, offset, ..., offset::period] = coordinates**power
    counts = flat(map_.paths(entries.flatten(0, 1))).round().unflatten(0, (3, period))
    paths, first, second = counts
    if not bool((paths.abs().amax() * second.abs().amax().clamp(min=1) < EXACT) & (first.abs().amax() < EXACT)):
        return None
    return sole_owner(paths, first, second)


@dataclass(frozen=True)
class ColumnGroups:
    """Groups of columns that share a product: a group has the same coordinate modulo the period on every axis.

    offsets: these coordinates, `[groups, axes]`.
    """

    offsets: Tensor
    axes: tuple[Axis, ...]

    def marks(self) -> Tensor:
        """The sum of the unit vectors of the columns of each group, `[groups, *columns]`."""
        marks = torch.ones(len(self.offsets), *[1] * len(self.axes), dtype=torch.float64, device=self.offsets.device)
        for i, axis in enumerate(self.axes):
            along = torch.arange(axis.size, device=self.offsets.device) % axis.period == self.offsets[:, i, None]
            marks = marks * along.double().unflatten(1, [axis.size if j == i else 1 for j in range(len(self.axes))])
        return marks

    def columns(self, groups: Tensor, outputs: Tensor) -> Tensor:
        """The column of a group on which an output depends, as a flat index, `[entries]`.

        groups, outputs: of which group and which output, `[entries]` each.
        """
        index = torch.zeros_like(outputs)
        for i, axis in enumerate(self.axes):
            offset = self.offsets[groups, i]
            coordinate = axis.owner[offset, outputs if axis.owner.shape[1] > 1 else 0]
            index = index * axis.size + coordinate * axis.period + offset
        return index


def groups_of(axes: tuple[Axis, ...], most: int) -> Iterator[ColumnGroups]:
    """All groups, which together contain every column once, in chunks of at most `most`."""
    periods = [a.period for a in axes]
    place = axes[0].owner.device if axes else torch.device("cpu")
    for part in torch.arange(math.prod(periods), device=place).split(most):
        offsets = []
        for period in reversed(periods):
            offsets.append(part % period)
            part = part // period
        yield ColumnGroups(torch.stack(offsets[::-1], 1) if offsets else part[:, None][:, :0], axes)
