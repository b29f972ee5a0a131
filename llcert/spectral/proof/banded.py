"""Proved largest eigenvalues of large sparse Gram matrices, by banded Cholesky factorisations.

For convolutions: their Gram matrices are banded if pixels come before channels, or after reverse Cuthill-McKee. n b^2
operations for side n and bandwidth b. The proof rests on a theorem about Cholesky factorisations that run to their end
(Rump 2006), since the residual of a banded factorisation would cost more than the factorisation itself. docs/method.md,
Proposition 7.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse import csgraph

from llcert.numerics.rounding import DOUBLE
from llcert.spectral.proof.eigenvalue import EXCESSES, estimate, roundings

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class BandedGram:
    """The Gram matrix of one sparse matrix as computed, its rows in an order that makes the band narrow.

    entries: symmetric, scipy COO; the lower triangle is read. band: the number of diagonals below the main one. error:
    an upper bound of the spectral norm of its difference from the exact Gram matrix.
    """

    entries: Any
    band: int
    error: float

    @property
    def size(self) -> int:
        """The number of rows."""
        return int(self.entries.shape[0])


def banded_gram(b: Any, natural: Integers) -> BandedGram:
    """`B* B` of a CSR matrix B with entries below 16, so that nothing overflows. natural: an order of its columns to
    try.

    `|fl(B* B) - B* B| <= gamma |B|* |B|` entrywise, and the norm of the right side is at most its largest row sum
    (docs/method.md, Proposition 7.2).
    """
    size = abs(b)
    sums = float((size.T @ size.sum(1)).max(initial=0.0))
    deepest = int(np.diff(b.tocsc().indptr).max(initial=0))
    error = DOUBLE.gamma(roundings(deepest)) * DOUBLE.above(sums, sum(b.shape) + 8)
    lowest = 2**12 * (b.shape[1] + 1) * (deepest + 1) * DOUBLE.tiny
    entries = (b.T @ b).tocsr()
    order = _narrowest(entries, natural)
    entries = entries[order][:, order].tocoo()
    entries.sum_duplicates()
    band = int(abs(entries.row - entries.col).max(initial=0))
    return BandedGram(entries, band, DOUBLE.above(error) + lowest)


def _narrowest(entries: Any, natural: Integers) -> Integers:
    """The order with the narrowest band, among the order of the rows, the given one and reverse Cuthill-McKee."""
    near = csgraph.reverse_cuthill_mckee(sparse.csr_matrix(entries), symmetric_mode=True)
    orders = [np.arange(entries.shape[0]), natural, near.astype(np.int64)]
    coordinates = entries.tocoo()
    return min(orders, key=lambda order: _band(coordinates, order))


def _band(entries: Any, order: Integers) -> int:
    """The bandwidth of a COO matrix whose rows and columns are put in this order."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return int(abs(place[entries.row] - place[entries.col]).max(initial=0))


def eigenvalue_bound(gram: BandedGram, tau: float) -> float:
    """An upper bound of the largest eigenvalue of the exact Gram matrix: a little above `tau`, or infinite.

    If a Cholesky factorisation of `H = tau I - G` runs to its end, `R* R = H + D` with `|D| <= gamma |R*||R|`, in any
    order of summation (Higham 2002, theorem 10.3). The squared column lengths of R are the diagonal of H up to the same
    factor, so `||D|| <= gamma / (1 - gamma) trace H` (Rump 2006), and H has no eigenvalue below `-||D||`.
    """
    lower = np.zeros((gram.band + 1, gram.size))
    below = gram.entries.row >= gram.entries.col
    row, column = gram.entries.row[below], gram.entries.col[below]
    lower[row - column, column] = -gram.entries.data[below]
    lower[0] += tau
    diagonal = lower[0].copy()
    if not (np.isfinite(lower).all() and (diagonal > 0).all()):
        return math.inf
    try:
        factor = linalg.cholesky_banded(lower, overwrite_ab=True, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return math.inf
    if not (np.isfinite(factor).all() and (factor[0] > 0).all()):
        return math.inf
    relative = DOUBLE.gamma(roundings(min(gram.band + 1, gram.size)))
    if not relative < 0.5:
        return math.inf
    shift = DOUBLE.above(relative / (1 - relative), 4) * DOUBLE.above(float(diagonal.sum()), gram.size + 8)
    shift += 2 * DOUBLE.unit * float(diagonal.max()) + 2**12 * (gram.size + 1) * (gram.band + 8) * DOUBLE.tiny
    bound = DOUBLE.above(tau + shift + gram.error, 16)
    return bound if math.isfinite(bound) else math.inf


def largest_eigenvalue(gram: BandedGram) -> tuple[float, int]:
    """An upper bound of the largest eigenvalue of the exact Gram matrix, and the number of factorisations.

    The bound is infinite where no proof succeeds.
    """
    guess = estimate(gram.entries.tocsr())
    for tries, excess in enumerate(EXCESSES, 1):
        bound = eigenvalue_bound(gram, guess * (1 + excess))
        if math.isfinite(bound):
            return bound, tries
    return math.inf, len(EXCESSES)
