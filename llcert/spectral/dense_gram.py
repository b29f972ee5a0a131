"""Gram matrices with their rounding error, and proofs that they have no eigenvalue above a number.

Dense case; docs/method.md, section 7.3, with all constants in docs/decisions/proofs-of-norms.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import linalg
from torch import Tensor

from llcert.numerics.rounding import DOUBLE

EXCESSES = (1e-8, 1e-6, 1e-4, 1e-2)
"""Relative excesses over the squared estimate that are tried in turn, until a proof succeeds."""


@dataclass(frozen=True)
class Gram:
    """A computed `B B*` with a bound of its error.

    entries: Hermitian, `[batch, n, n]`. error: upper bound of the spectral norm of its error, `[batch]`.
    """

    entries: Tensor
    error: Tensor


def gram(b: Tensor) -> Gram:
    """`B B*` of matrices `[batch, n, k]`, real or complex, with entries of at most 16 or so.

    |fl(B B*) - B B*| <= gamma |B| |B|* entrywise, and the norm of the right side is at most its largest row sum.
    """
    size = b.abs()
    sums = (size @ size.sum(1)[..., None]).amax((1, 2)) if b.numel() else b.real.new_zeros(len(b))
    error = DOUBLE.gamma(roundings(b.shape[2])) * DOUBLE.above(sums, sum(b.shape[1:]) + 8)
    lowest = 2**12 * (b.shape[1] + 1) * (b.shape[2] + 1) * DOUBLE.tiny
    return Gram(hermitian(b @ b.mH), DOUBLE.above(error) + lowest)


def roundings(length: int) -> int:
    """At least the number of roundings of an inner product of so many terms, real or complex."""
    return 4 * (length + 8)


def hermitian(a: Tensor) -> Tensor:
    """The Hermitian matrix with the lower triangle of `a` and the real part of its diagonal."""
    lower = a.tril(-1)
    return lower + lower.mH + torch.diag_embed(a.diagonal(dim1=1, dim2=2).real).to(a.dtype)


def eigenvalue_bound(matrix: Gram, tau: Tensor) -> Tensor:
    """Upper bounds of the largest eigenvalues of the exact Gram matrices, `[batch]`: a little above `tau`, or infinite.

    With a computed factor L, `H = tau I - G = L L* + E`, and `L L*` has no negative eigenvalue, whatever L is, so
    `G <= tau + ||E||`. E is computed and its rounding error added: nothing is assumed of the factorisation.
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


def estimate(matrix: Any) -> float:
    """The largest eigenvalue of a Hermitian matrix by Lanczos, from below; NaN where it was not found.

    matrix: finite, a numpy array or sparse, with two rows at least.
    """
    size = matrix.shape[0]
    start = np.random.default_rng(0).standard_normal(size).astype(matrix.dtype)
    try:  # a residual of 1e-6 leaves its square
        found = linalg.eigsh(matrix, 1, which="LA", tol=1e-6, ncv=min(size, 40), v0=start, return_eigenvectors=False)
    except (linalg.ArpackError, ValueError, TypeError):
        return math.nan
    return float(found[0])


def largest_eigenvalue(matrix: Gram, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of the largest eigenvalues of the exact Gram matrices, and the number of proofs tried, `[batch]`.

    guess: estimates from below, any numbers. A bound is infinite where no proof succeeds, as for NaN.
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


def root(value: float) -> float:
    """An upper bound of the square root."""
    return math.nextafter(math.sqrt(value), math.inf) if value >= 0 else math.inf
