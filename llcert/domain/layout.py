"""How coefficient rows of a backward pass belong to bounds: one bound for each row, or several that share a row.

Several bounds share a row where no entry of any value is read by two of them (docs/method.md, Proposition 10.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def flat(values: Tensor, start: int = 1) -> Tensor:
    """The axes from `start` on flattened into one, `[batch, entries]`; a value without axes has one entry."""
    return values[..., None].flatten(start)


class Layout(Protocol):
    """The assignment of entries of rows `[batch, rows, *shape]` to bounds `[batch, bounds]`."""

    def total(self, entries: Tensor) -> Tensor:
        """The sum over the entries of each bound, `[batch, bounds]`."""
        ...

    def spread(self, bounds: Tensor, like: Tensor) -> Tensor:
        """The value of the bound of each entry, `[batch, rows, *shape]`; like: rows."""
        ...

    def among(self, entries: Tensor) -> Layout:
        """The layout of rows restricted to some entries, `[batch, rows, some]`; entries: index into a flattened row."""
        ...


class _PerRow:
    """One bound for each row."""

    def total(self, entries: Tensor) -> Tensor:
        return flat(entries, 2).sum(-1)

    def spread(self, bounds: Tensor, like: Tensor) -> Tensor:
        return bounds.reshape(*bounds.shape, *[1] * (like.ndim - 2))

    def among(self, entries: Tensor) -> Layout:
        return self


PER_ROW: Layout = _PerRow()


@dataclass(frozen=True)
class Shared:
    """Several bounds in each row. owners: the bound of each entry, `[rows, *shape]`; `count` for none."""

    owners: Tensor
    count: int

    def total(self, entries: Tensor) -> Tensor:
        rows = flat(entries)
        sums = rows.new_zeros(len(rows), self.count + 1)
        return sums.index_add(1, self.owners.flatten(), rows)[:, : self.count]

    def spread(self, bounds: Tensor, like: Tensor) -> Tensor:
        padded = torch.cat((bounds, bounds.new_zeros(len(bounds), 1)), 1)
        return padded[:, self.owners.flatten()].reshape(len(bounds), *self.owners.shape)

    def among(self, entries: Tensor) -> Layout:
        return Shared(flat(self.owners)[:, entries], self.count)
