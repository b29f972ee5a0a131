"""One masked map for several images: the largest of their factors bounds each of their norms.

docs/method.md, Proposition 7.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Masked


@dataclass(frozen=True)
class Shared:
    """Masked maps that bound those of a batch. of: the index of the one that bounds each image, `[batch]`."""

    masked: Masked
    of: Tensor


def shared(masked: Masked, size: int) -> Shared:
    """Masked maps for groups of up to `size` images with similar masks; factors count by absolute value.

    `diag(r) A diag(c)` with |r| <= s, |c| <= t is `diag(r / s) diag(s) A diag(t) diag(c / t)`: its norm is no larger.
    """
    rows, columns = masked.rows.abs(), masked.columns.abs()
    of = torch.arange(masked.batch, device=rows.device)
    if size > 1:
        chain = _chain(torch.cat([_relative(rows), _relative(columns)], 1))
        of = torch.empty_like(of).scatter_(0, chain, torch.arange(masked.batch, device=rows.device) // size)
        groups = range(-(-masked.batch // size))
        rows = torch.stack([rows[of == g].amax(0) for g in groups]) if masked.batch else rows
        columns = torch.stack([columns[of == g].amax(0) for g in groups]) if masked.batch else columns
    return Shared(Masked(masked.map, rows, columns), of)


def _relative(factors: Tensor) -> Tensor:
    """The factors of each image divided by the largest one, for comparison, `[batch, n]`; NaN counts as zero."""
    own = flat(factors)
    return (own / own.amax(1, keepdim=True)).nan_to_num(0.0, 0.0, 0.0) if own.numel() else own


def _chain(factors: Tensor) -> Tensor:
    """An order in which each image is followed by the most similar one that is left (L1). factors: `[batch, n]`."""
    apart = torch.cdist(factors, factors, p=1)
    chain = [0] if len(factors) else []
    apart[:, chain] = torch.inf
    while 0 < len(chain) < len(factors):
        chain.append(int(apart[chain[-1]].argmin()))
        apart[:, chain[-1]] = torch.inf
    return torch.tensor(chain, dtype=torch.int64, device=factors.device)
