"""Row sharing in a backward pass: which bound each entry of a coefficient row counts towards.

Rows are structurally orthogonal if no entry of any value has a coefficient in two of them. They can then be added up
into one row, as the columns of a compressed Jacobian, and every sum over entries is taken bound by bound
(docs/method.md, Proposition 10.1). `llcert.bounds.backward.coloring` finds such groups; elsewhere every row has a
bound of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llcert.numerics.tensors import flat


class RowSharing(Protocol):
    """The bound that each entry of rows `[batch, rows, *shape]` counts towards; bounds are `[batch, bounds]`."""

    def sums(self, entries: Tensor) -> Tensor:
        """The sum over the entries of each bound, `[batch, bounds]`; entries: `[batch, rows, *shape]`."""
        ...

    def expanded(self, bounds: Tensor, like: Tensor) -> Tensor:
        """For each entry the number of its bound, broadcastable to `[batch, rows, *shape]`; like: rows."""
        ...

    def restricted(self, entries: Tensor) -> RowSharing:
        """That of rows `[batch, rows, kept]` of which only some entries are kept; entries: index into a flat row."""
        ...


class _Unshared:
    """One bound for each row."""

    def sums(self, entries: Tensor) -> Tensor:
        return flat(entries, 2).sum(-1)

    def expanded(self, bounds: Tensor, like: Tensor) -> Tensor:
        return bounds.reshape(*bounds.shape, *[1] * (like.ndim - 2))

    def restricted(self, entries: Tensor) -> RowSharing:
        return self


UNSHARED: RowSharing = _Unshared()


@dataclass(frozen=True)
class SharedRows:
    """Several bounds in each row.

    owners: the bound of each entry, `[rows, *shape]`, or `count` for none. count: the number of bounds.
    """

    owners: Tensor
    count: int

    def sums(self, entries: Tensor) -> Tensor:
        rows = flat(entries)
        sums = rows.new_zeros(len(rows), self.count + 1)
        return sums.index_add(1, self.owners.flatten(), rows)[:, : self.count]

    def expanded(self, bounds: Tensor, like: Tensor) -> Tensor:
        padded = torch.cat((bounds, bounds.new_zeros(len(bounds), 1)), 1)
        return padded[:, self.owners.flatten()].reshape(len(bounds), *self.owners.shape)

    def restricted(self, entries: Tensor) -> RowSharing:
        return SharedRows(flat(self.owners)[:, entries], self.count)
