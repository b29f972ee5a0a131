"""Proved norms of batches of dense matrices, by dense Cholesky factorisations (docs/method.md, Proposition 7.3).

`H = tau I - B B*` is factorised as `L L*` with an error E that is computed: the largest eigenvalue of `B B*` is at most
`tau + ||E||`. Nothing is assumed of the factorisation, which may run in blocks or on a GPU. n^3 / 3 operations for n
rows, and as many again for E; complex matrices too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.numerics.rounding import DOUBLE
from llcert.spectral.proof.eigenvalue import EXCESSES, estimate, roundings
from llcert.spectral.proof.scaling import ldexp, normalised

SMALL = 256
"""Side of a Gram matrix up to which all its eigenvalues are computed to estimate the largest; else ARPACK does."""


def compressed(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`diag(rows) A diag(columns)` without the rows and columns whose factor is zero, or its transpose: `[batch, n, k]`
    with n <= k.

    Some zero rows or columns remain where images have different numbers of them. matrix: A, `[rows, columns]`. rows,
    columns: factors, `[batch, rows]` and `[batch, columns]`.
    """
    row, column = _nonzero(rows), _nonzero(columns)
    b = matrix[row[:, :, None], column[:, None, :]] * rows.gather(1, row)[:, :, None]
    b = b * columns.gather(1, column)[:, None, :]
    return b.mT if b.shape[1] > b.shape[2] else b


def _nonzero(factors: Tensor) -> Tensor:
    """Indices of the nonzero factors of each image, `[batch, most]`, padded with indices of zero factors."""
    most = int((factors != 0).sum(1).max()) if factors.numel() else 0
    return torch.argsort((factors == 0).int(), dim=1, stable=True)[:, :most]


def norm_bound(b: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of the norms of float64 matrices `[batch, n, k]`, n <= k, and the number of factorisations,
    `[batch]`.

    A bound is infinite where no proof succeeded. The matrices are taken as they are: the error of what they were
    computed from is the caller's.
    """
    if b.numel() == 0:
        return b.new_zeros(len(b)), torch.zeros(len(b), dtype=torch.int64, device=b.device)
    scaled, exponent = normalised(b)
    products = gram(scaled)
    zero = (b == 0).all(2).all(1)
    bound, tries = largest_eigenvalue(products, torch.where(zero, 1.0, _estimate(products)))
    root = torch.nextafter(bound.sqrt(), torch.full_like(bound, torch.inf))
    return torch.where(zero, 0.0, ldexp(root, exponent)), tries


def _estimate(products: Gram) -> Tensor:
    """An estimate of the largest eigenvalue of each `B B*`, `[batch]`; NaN where an entry is not finite."""
    finite = torch.isfinite(products.entries).all(2).all(1)
    entries = torch.where(finite[:, None, None], products.entries, 0.0)
    if entries.shape[1] <= SMALL or entries.is_cuda:
        guess = torch.linalg.eigvalsh(entries)[:, -1]
    else:
        guess = torch.tensor([estimate(matrix) for matrix in entries.numpy()], dtype=torch.float64)
    return torch.where(finite, guess, torch.nan)


@dataclass(frozen=True)
class Gram:
    """Gram matrices `B B*` as computed. entries: Hermitian, `[batch, n, n]`. error: an upper bound of the spectral norm
    of their difference from the exact ones, `[batch]`."""

    entries: Tensor
    error: Tensor


def gram(b: Tensor) -> Gram:
    """`B B*` of matrices `[batch, n, k]`, real or complex, with entries below 16, so that nothing overflows.

    `|fl(B B*) - B B*| <= gamma |B| |B|*` entrywise, and the norm of the right side is at most its largest row sum
    (docs/method.md, Proposition 7.2).
    """
    size = b.abs()
    sums = (size @ size.sum(1)[..., None]).amax((1, 2)) if b.numel() else b.real.new_zeros(len(b))
    error = DOUBLE.gamma(roundings(b.shape[2])) * DOUBLE.above(sums, sum(b.shape[1:]) + 8)
    lowest = 2**12 * (b.shape[1] + 1) * (b.shape[2] + 1) * DOUBLE.tiny
    return Gram(hermitian(b @ b.mH), DOUBLE.above(error) + lowest)


def hermitian(a: Tensor) -> Tensor:
    """The Hermitian matrices with the lower triangles of a, `[batch, n, n]`, and the real parts of its diagonals."""
    lower = a.tril(-1)
    return lower + lower.mH + torch.diag_embed(a.diagonal(dim1=1, dim2=2).real).to(a.dtype)


def eigenvalue_bound(matrix: Gram, tau: Tensor) -> Tensor:
    """Upper bounds of the largest eigenvalues of the exact Gram matrices, `[batch]`: a little above `tau`, or infinite.

    With a computed factor L, `H = tau I - G = L L* + E`, and `L L*` has no negative eigenvalue, whatever L is. So no
    eigenvalue of G exceeds `tau + ||E||` (docs/method.md, Proposition 7.3). E is computed, and its rounding error
    added.
    """
    n = matrix.entries.shape[1]
    diagonal = tau[:, None] - matrix.entries.diagonal(dim1=1, dim2=2).real
    h = -matrix.entries
    h.diagonal(dim1=1, dim2=2).copy_(diagonal)
    factor, info = torch.linalg.cholesky_ex(h)
    factor = factor.tril()
    residual = (h - factor @ factor.mH).abs().sum(2).amax(1)
    squares = factor.abs().square().sum((1, 2))
    shift = DOUBLE.above(residual, n + 8) + DOUBLE.gamma(roundings(n)) * DOUBLE.above(squares, n * n + 8)
    shift = shift + 2 * DOUBLE.unit * diagonal.abs().amax(1) + 2**12 * (n + 1) ** 2 * DOUBLE.tiny
    bound = DOUBLE.above(tau + shift + matrix.error, 16)
    return torch.where((info == 0) & torch.isfinite(bound), bound, torch.inf)


def largest_eigenvalue(matrix: Gram, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of the largest eigenvalues of the exact Gram matrices, and the number of factorisations, `[batch]`.

    guess: estimates of the eigenvalues; any numbers are safe. A bound is infinite where no proof succeeds, as for NaN.
    """
    bound = torch.full_like(guess, torch.inf)
    tries = torch.zeros_like(guess, dtype=torch.int64)
    for excess in EXCESSES:
        left = torch.isinf(bound).nonzero()[:, 0]
        if len(left) == 0:
            break
        part = Gram(matrix.entries[left], matrix.error[left])
        bound[left] = eigenvalue_bound(part, guess[left] * (1 + excess))
        tries[left] += 1
    return bound, tries
