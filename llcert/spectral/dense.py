"""Proved norms of batches of dense matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.spectral.bidiagonal import Action, top_singular_value
from llcert.spectral.gram import Gram, gram, largest_eigenvalue
from llcert.spectral.scaling import normalised, shifted

SMALL = 256
"""The side of a Gram matrix up to which its eigenvalues are computed for the estimate."""

STEPS = 48
"""Lanczos steps of the estimate for larger ones."""


def kept(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`diag(rows) M diag(columns)` without rows and columns of factor zero, `[batch, n, k]`, n <= k.

    Where images keep different numbers, some zeros remain. rows, columns: `[batch, n]`.
    """
    row, column = _places(rows), _places(columns)
    b = matrix[row[:, :, None], column[:, None, :]] * rows.gather(1, row)[:, :, None]
    b = b * columns.gather(1, column)[:, None, :]
    return b.mT if b.shape[1] > b.shape[2] else b


def _places(factors: Tensor) -> Tensor:
    """Indices of the factors that are not zero, and of as many others as the fullest image makes necessary."""
    most = int((factors != 0).sum(1).max()) if factors.numel() else 0
    return torch.argsort((factors == 0).int(), dim=1, stable=True)[:, :most]


def norm_bound(b: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of the norms of matrices `[batch, n, k]` as they stand, and the proofs tried, `[batch]`.

    Infinite where none succeeded.
    """
    if b.numel() == 0:
        return b.new_zeros(len(b)), torch.zeros(len(b), dtype=torch.int64, device=b.device)
    scaled, exponent = normalised(b)
    products = gram(scaled)
    zero = (b == 0).all(2).all(1)
    bound, tries = largest_eigenvalue(products, torch.where(zero, 1.0, _estimate(scaled, products)))
    root = torch.nextafter(bound.sqrt(), torch.full_like(bound, torch.inf))
    return torch.where(zero, 0.0, shifted(root, exponent)), tries


def _estimate(b: Tensor, products: Gram) -> Tensor:
    """The largest eigenvalue of each `B B*` as a float64 computation has it, NaN where something is not finite."""
    finite = torch.isfinite(products.entries).all(2).all(1)
    if products.entries.shape[1] <= SMALL:
        entries = torch.where(finite[:, None, None], products.entries, 0.0)
        guess = torch.linalg.eigvalsh(entries)[:, -1]
    elif b.is_complex():
        guess = _power(products.entries)
    else:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(len(b), b.shape[1], generator=generator, dtype=b.dtype).to(b.device)
        sizes = torch.full((len(b),), b.shape[1], device=b.device)
        other = torch.full((len(b),), b.shape[2], device=b.device)
        guess = top_singular_value(_times(b.mT), _times(b), start, STEPS, other, sizes).square()
    return torch.where(finite, guess, torch.nan)


def _power(matrices: Tensor) -> Tensor:
    """Rayleigh quotients of positive semidefinite matrices after some steps of power iteration, `[batch]`."""
    x = torch.randn(*matrices.shape[:2], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(matrices)
    for _ in range(STEPS):
        x = matrices @ (x / torch.linalg.vector_norm(x, dim=1, keepdim=True))
    x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return (x.mH @ matrices @ x)[:, 0, 0].real


def _times(matrices: Tensor) -> Action:
    return lambda x: (matrices @ x[..., None])[..., 0]
