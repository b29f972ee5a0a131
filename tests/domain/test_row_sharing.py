"""Sums over the entries of each bound, against loops over owners."""

from __future__ import annotations

import pytest
import torch
from drawing import normal

from llcert.domain.row_sharing import UNSHARED, RowSharing, SharedRows

BATCH, ROWS, SHAPE, BOUNDS = 3, 4, (2, 5), 7
OWNERS = torch.randint(BOUNDS + 1, (ROWS, *SHAPE), generator=torch.Generator().manual_seed(0))
"""The bound of each entry; BOUNDS for none."""
UNSHARED_OWNERS = torch.arange(ROWS)[:, None, None].expand(ROWS, *SHAPE)
KINDS = {"shared": (SharedRows(OWNERS, BOUNDS), OWNERS, BOUNDS), "unshared": (UNSHARED, UNSHARED_OWNERS, ROWS)}


def summed(entries: torch.Tensor, owners: torch.Tensor, bounds: int) -> torch.Tensor:
    """The sums, entry by entry."""
    found = torch.zeros(len(entries), bounds, dtype=entries.dtype)
    for values, total in zip(entries.flatten(1), found, strict=True):
        for value, owner in zip(values, owners.flatten().tolist(), strict=True):
            if owner < bounds:
                total[owner] += value
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_sums_and_their_adjoint(kind: str) -> None:
    sharing, owners, bounds = KINDS[kind]
    rows, multipliers = normal(BATCH, ROWS, *SHAPE), normal(BATCH, bounds, seed=1)
    torch.testing.assert_close(sharing.sums(rows), summed(rows, owners, bounds))
    expanded = sharing.expanded(multipliers, rows)
    products = (rows * expanded).sum((1, 2, 3))
    torch.testing.assert_close(products, (sharing.sums(rows) * multipliers).sum(1))


@pytest.mark.parametrize("kind", KINDS)
def test_entries_that_are_left_out_count_as_zero(kind: str) -> None:
    sharing, owners, bounds = KINDS[kind]
    kept = torch.tensor([8, 0, 3])
    rows = normal(BATCH, ROWS, *SHAPE)
    part: RowSharing = sharing.restricted(kept)
    own = rows.flatten(2)[..., kept]
    alone = torch.zeros_like(rows.flatten(2))
    alone[..., kept] = own
    torch.testing.assert_close(part.sums(own), summed(alone.reshape(rows.shape), owners, bounds))
