"""What every proof of a largest eigenvalue by a factorisation shares (docs/method.md, section 7.3).

The dense proof is in `dense`, the banded one in `banded`; docs/decisions/proofs-of-norms.md has all constants.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.sparse import linalg

EXCESSES = (1e-8, 1e-6, 1e-4, 1e-2)
"""Excesses of tau over the estimated largest eigenvalue, relative, that are tried in turn until a proof succeeds."""


def roundings(length: int) -> int:
    """An upper bound of the number of roundings in an inner product of `length` terms, real or complex."""
    return 4 * (length + 8)


def estimate(matrix: Any) -> float:
    """An estimate, from below, of the largest eigenvalue of a Hermitian matrix, by ARPACK; NaN where it found none.

    matrix: finite, a numpy array or sparse, with two rows at least.
    """
    size = matrix.shape[0]
    start = np.random.default_rng(0).standard_normal(size).astype(matrix.dtype)
    try:  # the error of the eigenvalue is the square of the residual, 1e-6
        found = linalg.eigsh(matrix, 1, which="LA", tol=1e-6, ncv=min(size, 40), v0=start, return_eigenvectors=False)
    except (linalg.ArpackError, ValueError, TypeError):
        return math.nan
    return float(found[0])


def root(value: float) -> float:
    """An upper bound of the square root; infinite for NaN and for numbers below zero."""
    return math.nextafter(math.sqrt(value), math.inf) if value >= 0 else math.inf
