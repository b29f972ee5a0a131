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
    """Says for each entry of coefficient rows which bound it counts towards.

    Rows are `[batch, rows, *shape]`; what there is one of for each bound, such as a multiplier, is `[batch, bounds]`.
    """

    def sums(self, entries: Tensor) -> Tensor:
        """Adds up, for each bound, the entries that count towards it: `[batch, bounds]`.

        entries: `[batch, rows, *shape]`.
        """
        ...

    def expanded(self, per_bound: Tensor, like: Tensor) -> Tensor:
        """Gives each entry of the rows the number of the bound that it counts towards, the adjoint of `sums`.

        Broadcastable to `[batch, rows, *shape]`. per_bound: `[batch, bounds]`. like: rows, for their shape.
        """
        ...

    def restricted(self, kept: Tensor) -> RowSharing:
        """The same for rows `[batch, rows, kept]` that keep only some entries; kept: index into a flattened row."""
        ...


class _Unshared:
    """One bound for each row."""

    def sums(self, entries: Tensor) -> Tensor:
        return flat(entries, 2).sum(-1)

    def expanded(self, per_bound: Tensor, like: Tensor) -> Tensor:
        return per_bound.reshape(*per_bound.shape, *[1] * (like.ndim - 2))

    def restricted(self, kept: Tensor) -> RowSharing:
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

    def expanded(self, per_bound: Tensor, like: Tensor) -> Tensor:
        padded = torch.cat((per_bound, per_bound.new_zeros(len(per_bound), 1)), 1)
        return padded[:, self.owners.flatten()].reshape(len(per_bound), *self.owners.shape)

    def restricted(self, kept: Tensor) -> RowSharing:
        return SharedRows(flat(self.owners)[:, kept], self.count)
