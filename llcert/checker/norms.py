"""Rule 4: proves that a masked, weighted linear map has at most a given 2-norm, by a Cholesky factorisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from llcert.checker.blocks import Map
from llcert.checker.files import Integers
from llcert.checker.nodes import Matrix, with_data
from llcert.checker.numbers import TINY, Mask, U, Vector, above, down, gamma

MOST_CELLS, MOST_WORK = 2**28, 2**32
"""Numbers of a matrix that is factorised, and products of a sparse Gram matrix: beyond them nothing is proved."""
SPARSE_SHARE = 0.1
"""Below this share of entries a Gram matrix is formed faster by sparse products than by dense ones."""
BAND_SHARE = 0.5
"""Below this share of the side a banded factorisation is faster than a dense one (measured)."""


@dataclass(frozen=True)
class Part:
    """`share diag(weights) A diag(mask)`, one of the maps that stand side by side."""

    map: Map
    mask: Mask
    share: float = 1.0


def proves(parts: Sequence[Part], weights: Vector, bound: float) -> bool:
    """True only if `||[share_s diag(weights) A_s diag(mask_s)]||_2 <= bound`.

    Zero rows and columns are cut away first. Every entry of the computed map M is off by at most gamma(n) its size, so
    the norm is at most `||M|| + gamma(n) ||sizes||`; what is left of the bound is to be proved for M itself.
    """
    matrix = _cut([(p, p.map.matrix) for p in parts], weights)
    composed = any(p.map.roundings for p in parts)
    sizes = _cut([(p, p.map.sizes) for p in parts], weights) if composed else abs(matrix)
    if not matrix.nnz and not sizes.nnz:
        return bound >= 0
    largest = schur(sizes)
    roundings = max(p.map.roundings for p in parts) + 4
    left = down(down(bound - above(gamma(2 * roundings) * largest, 2)) - TINY)
    if not left > 0:
        return False
    return schur(abs(matrix)) <= left or _gram_is_below(matrix, left)


def _cut(parts: Sequence[tuple[Part, Matrix]], weights: Vector) -> Matrix:
    """The maps side by side, weighted, without the rows and columns that weights and masks make zero.

    Factors are raised to TINY, which only raises the norm: one that underflows may meet an entry that is as large.
    """
    rows = np.flatnonzero(weights)
    cut = []
    for part, matrix in parts:
        piece = (
            matrix[rows][:, np.flatnonzero(part.mask)] if rows.size < matrix.shape[0] or not part.mask.all() else matrix
        )
        scale = np.repeat(np.maximum(weights[rows] * part.share, TINY), np.diff(piece.indptr))
        cut.append(with_data(piece, piece.data * scale))
    return cut[0] if len(cut) == 1 else sparse.csr_array(sparse.hstack(cut))


def schur(sizes: Matrix) -> float:
    """An upper bound of the norm of a matrix of entries >= 0, and of every matrix it bounds entrywise.

    The root of largest row sum times largest column sum (Higham 2002, section 6.3).
    """
    if not sizes.nnz:
        return 0.0
    most = float(sizes.sum(axis=1).max()) * float(sizes.sum(axis=0).max())
    return float(above(math.sqrt(most), sum(sizes.shape)) + 2.0**-400)


def _gram_is_below(matrix: Matrix, bound: float) -> bool:
    """True only if `tau I - M^T M` is positive semidefinite for a tau <= bound^2, on the smaller side of M.

    The Gram matrix in floating point is off by at most gamma(m) |M|^T |M|, m its longest inner product, and so by
    gamma(m) times the square of the Schur bound of |M| in norm.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = sparse.csr_array(matrix.T)
    n, cells = matrix.shape[1], math.prod(matrix.shape)
    longest = int(np.bincount(matrix.indices).max())
    error = above(gamma(longest + 2) * schur(abs(matrix)) ** 2, 4)
    tau = down(bound * bound)
    if matrix.nnz > SPARSE_SHARE * cells and cells <= MOST_CELLS:
        full = matrix.toarray()
        return _dense(full.T @ full, tau, error)
    if not np.dot(np.diff(matrix.indptr).astype(float), np.diff(matrix.indptr)) <= MOST_WORK:
        return False
    gram = sparse.csr_array(matrix.T @ matrix)
    order, band = _narrowest(gram)
    if band < BAND_SHARE * n:
        return (band + 1) * n <= MOST_CELLS and _banded(gram, order, band, tau, error)
    return n * n <= MOST_CELLS and _dense(gram.toarray(), tau, error)


def _shifted(diagonal: Vector, tau: float, error: float, band: int) -> Vector | None:
    """The diagonal of `tau I - G` less Rump's shift; None where an entry is not positive.

    S. M. Rump, Verification of positive definiteness, BIT 46 (2006): if the factorisation of B runs to its end in
    floating point, its factor is the exact one of B + E with |E_ij| <= g sqrt(b_ii b_jj), g = gamma(k)/(1 - gamma(k)),
    k the longest inner product plus 1 (Demmel; Higham 2002, theorem 10.5). E has the band of B: at most 2 band + 1
    entries a row, inner products of at most band + 1. So ||E|| <= g min(trace B, (2 band + 1) largest b_ii), and
    B >= -||E||. k has 8 to spare, for kernels that multiply by reciprocals of pivots. 4 U tau pays for the roundings of
    the diagonal itself, and the term in TINY, far above Rump's 4 (n + 1) (2 (n + 2) + max b_ii) 2^-1074, for underflow.
    """
    n = diagonal.size
    spread = gamma(band + 9) / (1 - gamma(band + 9))
    start = tau - diagonal
    if not np.all(start > 0):
        return None
    most = min(float(start.sum()), (2 * band + 1) * float(start.max()))
    shift = above(spread * most + 4 * U * tau + error + (n + 8) ** 2 * (1 + tau) * TINY, n + 8)
    shifted = start - shift
    return shifted if np.all(shifted > 0) else None


def _dense(gram: Vector, tau: float, error: float) -> bool:
    """True only if `tau I - gram` is positive semidefinite, also where gram is off by `error` in norm."""
    n = gram.shape[0]
    diagonal = _shifted(gram.diagonal(), tau, error, n - 1)
    if diagonal is None:
        return False
    np.negative(gram, out=gram)
    np.fill_diagonal(gram, diagonal)
    return _factors(lambda: linalg.cholesky(gram.T, lower=False, overwrite_a=True, check_finite=True))


def _banded(gram: Matrix, order: Integers, band: int, tau: float, error: float) -> bool:
    """Likewise, of a sparse matrix whose entries lie `band` around the diagonal in the given order."""
    diagonal = _shifted(gram.diagonal()[order], tau, error, band)
    if diagonal is None:
        return False
    rows, columns = _placed(gram, order)
    upper = columns > rows
    stored = np.zeros((band + 1, gram.shape[0]))  # LAPACK's upper form: entry (i, j) at (band + i - j, j)
    stored[band + rows[upper] - columns[upper], columns[upper]] = -gram.data[upper]
    stored[band] = diagonal
    return _factors(lambda: linalg.cholesky_banded(stored, overwrite_ab=True, lower=False, check_finite=True))


def _factors(factorise: Callable[[], Vector]) -> bool:
    """Whether a factorisation runs to its end, on finite numbers."""
    try:
        factor = factorise()
    except (linalg.LinAlgError, ValueError):
        return False
    return bool(np.isfinite(factor).all())


def _placed(gram: Matrix, order: Integers) -> tuple[Integers, Integers]:
    """Rows and columns of the stored entries, in the given order."""
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    return place[np.repeat(np.arange(order.size), np.diff(gram.indptr))], place[gram.indices]


def _narrowest(gram: Matrix) -> tuple[Integers, int]:
    """An order of the rows, natural or reverse Cuthill-McKee, and the width of the band in it."""
    n = gram.shape[0]
    found = []
    natural = np.arange(n)
    orders = [natural]
    if gram.nnz < 2 * BAND_SHARE * n * n:  # a band has at most 2 band + 1 entries a row
        orders.append(reverse_cuthill_mckee(gram, symmetric_mode=True).astype(np.int64))
    for order in orders:
        rows, columns = _placed(gram, order)
        found.append((int(np.abs(rows - columns).max()), order))
    band, order = min(found, key=lambda pair: pair[0])
    return order, band
