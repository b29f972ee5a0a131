"""Proved norms of batches of dense matrices (docs/method.md, section 7.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.spectral.dense_gram import Gram, estimate, gram, largest_eigenvalue
from llcert.spectral.scaling import normalised, shifted

SMALL = 256
"""The side of a Gram matrix up to which all its eigenvalues are computed for the estimate."""


def kept(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`diag(rows) M diag(columns)` without the rows and columns whose factor is zero, `[batch, n, k]`, n <= k.

    Some zero rows or columns remain where images have different numbers of them. rows, columns: `[batch, n]`.
    """
    row, column = _places(rows), _places(columns)
    b = matrix[row[:, :, None], column[:, None, :]] * rows.gather(1, row)[:, :, None]
    b = b * columns.gather(1, column)[:, None, :]
    return b.mT if b.shape[1] > b.shape[2] else b


def _places(factors: Tensor) -> Tensor:
    """Indices of the nonzero factors of each image, padded with others to the largest number of any image."""
    most = int((factors != 0).sum(1).max()) if factors.numel() else 0
    return torch.argsort((factors == 0).int(), dim=1, stable=True)[:, :most]


def norm_bound(b: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of the norms of computed matrices `[batch, n, k]`, and the number of proofs tried, `[batch]`.

    Infinite where no proof succeeded.
    """
    if b.numel() == 0:
        return b.new_zeros(len(b)), torch.zeros(len(b), dtype=torch.int64, device=b.device)
    scaled, exponent = normalised(b)
    products = gram(scaled)
    zero = (b == 0).all(2).all(1)
    bound, tries = largest_eigenvalue(products, torch.where(zero, 1.0, _estimate(products)))
    root = torch.nextafter(bound.sqrt(), torch.full_like(bound, torch.inf))
    return torch.where(zero, 0.0, shifted(root, exponent)), tries


def _estimate(products: Gram) -> Tensor:
    """The largest eigenvalue of each `B B*`, estimated in float64; NaN where an entry is not finite."""
    finite = torch.isfinite(products.entries).all(2).all(1)
    entries = torch.where(finite[:, None, None], products.entries, 0.0)
    if entries.shape[1] <= SMALL or entries.is_cuda:
        guess = torch.linalg.eigvalsh(entries)[:, -1]
    else:
        guess = torch.tensor([estimate(matrix) for matrix in entries.numpy()], dtype=torch.float64)
    return torch.where(finite, guess, torch.nan)
