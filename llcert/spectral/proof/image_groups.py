"""One norm for several images: the entrywise largest of their factors bounds each of their norms.

This saves factorisations where one takes more than the budget of an image, at the price of looser bounds; images with
similar masks are grouped, to lose little. docs/method.md, Proposition 7.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Masked


@dataclass(frozen=True)
class ImageGroups:
    """A batch in groups. masked: one masked map for each group, whose norm bounds those of its images. of: the index of
    the group of each image, `[batch]`."""

    masked: Masked
    of: Tensor


def grouped(masked: Masked, size: int) -> ImageGroups:
    """Groups of up to `size` images with similar masks; the factors of a group are the largest absolute ones.

    `diag(w) A diag(v)` with `|w| <= s`, `|v| <= t` is `diag(w / s) diag(s) A diag(t) diag(v / t)`, so its norm is at
    most that of `diag(s) A diag(t)`.
    """
    rows, columns = masked.rows.abs(), masked.columns.abs()
    of = torch.arange(masked.batch, device=rows.device)
    if size > 1:
        chain = _chain(torch.cat([_relative(rows), _relative(columns)], 1))
        of = torch.empty_like(of).scatter_(0, chain, torch.arange(masked.batch, device=rows.device) // size)
        groups = range(-(-masked.batch // size))
        rows = torch.stack([rows[of == g].amax(0) for g in groups]) if masked.batch else rows
        columns = torch.stack([columns[of == g].amax(0) for g in groups]) if masked.batch else columns
    return ImageGroups(Masked(masked.map, rows, columns), of)


def _relative(factors: Tensor) -> Tensor:
    """The factors of each image divided by its largest one, flat, `[batch, n]`; NaN and infinity become zero."""
    own = flat(factors)
    return (own / own.amax(1, keepdim=True)).nan_to_num(0.0, 0.0, 0.0) if own.numel() else own


def _chain(factors: Tensor) -> Tensor:
    """An order of the images, `[batch]`: each is followed by the most similar one that is left, by L1 distance.

    factors: `[batch, n]`.
    """
    apart = torch.cdist(factors, factors, p=1)
    chain = [0] if len(factors) else []
    apart[:, chain] = torch.inf
    while 0 < len(chain) < len(factors):
        chain.append(int(apart[chain[-1]].argmin()))
        apart[:, chain[-1]] = torch.inf
    return torch.tensor(chain, dtype=torch.int64, device=factors.device)
