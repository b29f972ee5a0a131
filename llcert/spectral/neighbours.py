"""One map for several images: the largest of their factors, whose norm is no smaller than any of theirs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.layout import flat
from llcert.spectral.linear_map import Masked


@dataclass(frozen=True)
class Shared:
    """Maps that bound those of a batch. of: which of them bounds each image, `[batch]`."""

    masked: Masked
    of: Tensor


def shared(masked: Masked, size: int) -> Shared:
    """Maps for groups of up to `size` images with similar masks, factors by absolute value.

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
    """Each image's factors by their largest, `[batch, n]`: what similarity is judged by; NaN counts as zero."""
    own = flat(factors)
    return (own / own.amax(1, keepdim=True)).nan_to_num(0.0, 0.0, 0.0) if own.numel() else own


def _chain(factors: Tensor) -> Tensor:
    """An order of the images in which each is followed by the most similar one left. factors: `[batch, n]`."""
    apart = torch.cdist(factors, factors, p=1)
    chain = [0] if len(factors) else []
    apart[:, chain] = torch.inf
    while 0 < len(chain) < len(factors):
        chain.append(int(apart[chain[-1]].argmin()))
        apart[:, chain[-1]] = torch.inf
    return torch.tensor(chain, dtype=torch.int64, device=factors.device)
