"""Rule 4: proves that a masked, weighted linear map has at most a given spectral norm, by a Cholesky factorisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from llcert.checker.blocks import Map
from llcert.checker.files import Integers
from llcert.checker.nodes import Matrix, schur, with_data
from llcert.checker.numbers import TINY, Mask, U, Vector, above, down, gamma

MOST_CELLS, MOST_WORK = 2**28, 2**32
"""Largest number of entries of a matrix that is factorised, and of multiplications to form a sparse Gram matrix; beyond
them nothing is proved."""
SPARSE_SHARE = 0.1
"""Share of nonzero entries of a matrix below which its Gram matrix is formed by sparse products, not by dense ones."""
BAND_SHARE = 0.5
"""Share of the side of a Gram matrix below which its bandwidth makes a banded factorisation faster than a dense one
(measured)."""


@dataclass(frozen=True)
class Part:
    """`share A diag(mask)`: one of the maps whose rows stand side by side in `proves`."""

    map: Map
    mask: Mask
    share: float = 1.0


def proves(parts: Sequence[Part], weights: Vector, bound: float) -> bool:
    """True only if `||[share_s diag(weights) A_s diag(mask_s)]||_2 <= bound`, the maps of all parts side by side.

    Zero rows and columns are left out. Every entry of the computed matrix M is off by at most gamma(n) times its size,
    so the norm is at most `||M|| + gamma(n) ||sizes||`, and `||M|| <= bound - gamma(n) ||sizes||` is proved.
    """
    matrix = _side_by_side([(p, p.map.matrix) for p in parts], weights)
    composed = any(p.map.roundings for p in parts)
    sizes = _side_by_side([(p, p.map.sizes) for p in parts], weights) if composed else abs(matrix)
    if not matrix.nnz and not sizes.nnz:
        return bound >= 0
    largest = schur(sizes)
    roundings = max(p.map.roundings for p in parts) + 4
    left = down(down(bound - above(gamma(2 * roundings) * largest, 2)) - TINY)
    if not left > 0:
        return False
    return schur(abs(matrix)) <= left or _gram_is_below(matrix, left)


def _side_by_side(parts: Sequence[tuple[Part, Matrix]], weights: Vector) -> Matrix:
    """The weighted matrices of the parts side by side, without the rows and columns that weights and masks make zero.

    Factors are raised to at least TINY, which can only raise the norm: a factor that underflowed to 0 might belong to
    an entry that is as large as it is small.
    """
    rows = np.flatnonzero(weights)
    kept = []
    for part, matrix in parts:
        piece = (
            matrix[rows][:, np.flatnonzero(part.mask)] if rows.size < matrix.shape[0] or not part.mask.all() else matrix
        )
        scale = np.repeat(np.maximum(weights[rows] * part.share, TINY), np.diff(piece.indptr))
        kept.append(with_data(piece, piece.data * scale))
    return kept[0] if len(kept) == 1 else sparse.csr_array(sparse.hstack(kept))


def _gram_is_below(matrix: Matrix, bound: float) -> bool:
    """True only if `||M|| <= bound`: `tau I - G` is positive semidefinite for G the Gram matrix of the smaller side of
    M and some tau <= bound^2.

    G as computed is off by at most gamma(m) |M|^T |M|, m its longest inner product, hence in norm by gamma(m) times the
    square of `schur(|M|)`.
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
    """The diagonal of `tau I - G` minus Rump's shift; None where an entry is not positive. error: of G, in norm.

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
    """True only if `tau I - G` is positive semidefinite for every G with `||G - gram|| <= error`."""
    n = gram.shape[0]
    diagonal = _shifted(gram.diagonal(), tau, error, n - 1)
    if diagonal is None:
        return False
    np.negative(gram, out=gram)
    np.fill_diagonal(gram, diagonal)
    return _factors(lambda: linalg.cholesky(gram.T, lower=False, overwrite_a=True, check_finite=True))


def _banded(gram: Matrix, order: Integers, band: int, tau: float, error: float) -> bool:
    """The same for a sparse matrix with this bandwidth once its rows and columns are in this order."""
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
    """Whether a factorisation runs to its end with a finite factor."""
    try:
        factor = factorise()
    except (linalg.LinAlgError, ValueError):
        return False
    return bool(np.isfinite(factor).all())


def _placed(gram: Matrix, order: Integers) -> tuple[Integers, Integers]:
    """Row and column of every stored entry once rows and columns are in this order."""
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    return place[np.repeat(np.arange(order.size), np.diff(gram.indptr))], place[gram.indices]


def _narrowest(gram: Matrix) -> tuple[Integers, int]:
    """The better of two orders of the rows, their own and reverse Cuthill-McKee, and the bandwidth in it."""
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
