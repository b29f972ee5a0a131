"""Which bound each entry of a batch of rows belongs to: one bound a row, or several that share a row and never meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def flat(values: Tensor, start: int = 1) -> Tensor:
    """The entries behind the first `start` axes side by side, `[batch, entries]`, also of a value of one number."""
    return values[..., None].flatten(start)


class Layout(Protocol):
    """How the entries of rows `[batch, rows, *shape]` add up to bounds `[batch, bounds]`."""

    def total(self, entries: Tensor) -> Tensor:
        """The sum over the entries of each bound."""
        ...

    def spread(self, bounds: Tensor, like: Tensor) -> Tensor:
        """Each entry's own value among those of the bounds; like: rows."""
        ...

    def among(self, entries: Tensor) -> Layout:
        """The layout of some entries of the rows, `[batch, rows, some]`; entries: index into a flat row."""
        ...


class _PerRow:
    """One bound a row."""

    def total(self, entries: Tensor) -> Tensor:
        return flat(entries, 2).sum(-1)

    def spread(self, bounds: Tensor, like: Tensor) -> Tensor:
        return bounds.reshape(*bounds.shape, *[1] * (like.ndim - 2))

    def among(self, entries: Tensor) -> Layout:
        return self


PER_ROW: Layout = _PerRow()


@dataclass(frozen=True)
class Shared:
    """Several bounds a row. owners: of each entry of the rows, `[rows, *shape]`; `count` where there is none."""

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
