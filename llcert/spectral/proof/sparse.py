"""Proved norms of sparse masked matrices such as those of convolutions, one image at a time (docs/method.md, 7.3).

Chooses the factorisation: banded where the band of the Gram matrix is narrow (`banded`), else dense (`dense`). What
would exceed the limits on memory and operations is refused before it is computed, as far as a sample can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llcert.spectral.proof import dense
from llcert.spectral.proof.banded import banded_gram, largest_eigenvalue
from llcert.spectral.proof.eigenvalue import root

Floats = NDArray[np.float64]

DENSE = 192
"""Gram matrices up to this side are factorised as dense ones."""

SHARE = 1 / 3
"""A Gram matrix whose band is wider than this share of its side is factorised as a dense one."""

FORMING = 8.0
"""Cost of a product of two entries when a sparse Gram matrix is formed, in multiplications of a factorisation."""

SAMPLE = 64
"""Rows of a Gram matrix from which its number of entries and its band are estimated before it is formed."""


@dataclass(frozen=True)
class SparseMap:
    """The matrix A of a map. entries: CSR, none above one. rows, columns: shapes of one output and of one input."""

    entries: Any
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def norm_bound(
        self, rows: Floats, columns: Floats, largest: int, memory: float, operations: float
    ) -> tuple[float, int]:
        """An upper bound of the norm of `fl(diag(rows) A diag(columns))` for one image, and the number of
        factorisations.

        rows, columns: flat factors. largest: side of a Gram matrix; memory: bytes; operations: of a factorisation. The
        bound is infinite where no proof succeeds, or where one would exceed these limits.
        """
        kept_rows, kept_columns = (np.flatnonzero(f != 0) for f in (rows, columns))
        if not (len(kept_rows) and len(kept_columns)):
            return 0.0, 0
        b = self.entries[kept_rows][:, kept_columns]
        b.data *= np.repeat(rows[kept_rows], np.diff(b.indptr))
        b.data *= columns[kept_columns][b.indices]
        if b.shape[0] < b.shape[1]:
            b, kept, shape = b.T.tocsr(), kept_rows, self.rows
        else:
            kept, shape = kept_columns, self.columns
        if b.shape[1] > largest:
            return math.inf, 0
        return _norm_bound(b, np.argsort(_channels_last(shape)[kept]), memory, operations)


def _channels_last(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The position of each entry of a value `[channels, ...]` in the order that has pixels before channels."""
    order = np.arange(math.prod(shape)).reshape(shape)
    order = np.moveaxis(order, 0, -1).ravel() if len(shape) > 1 else order.ravel()
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _norm_bound(b: Any, natural: NDArray[np.int64], memory: float, operations: float) -> tuple[float, int]:
    """An upper bound of the norm of a CSR matrix `[n, k]`, k <= n, and the number of factorisations.

    natural: an order of the columns in which its Gram matrix may have a narrow band.
    """
    if not np.isfinite(b.data).all():
        return math.inf, 0
    exponent = int(np.frexp(np.abs(b.data).max(initial=0.0))[1])
    if not b.data.any():
        return 0.0, 0
    b.data = np.ldexp(b.data, -exponent)
    if b.shape[1] > DENSE:
        entries, band = _sampled(b, natural)
        forming = FORMING * float(np.square(np.diff(b.indptr), dtype=np.float64).sum())
        if entries * 32 > memory or forming + b.shape[1] * (band / 2) ** 2 > operations:
            return math.inf, 0
        gram = banded_gram(b, natural)
        if gram.band < SHARE * gram.size:
            if 8 * (gram.band + 1) * gram.size > memory or gram.size * gram.band**2 > operations:
                return math.inf, 0
            eigenvalue, tries = largest_eigenvalue(gram)
            return math.ldexp(root(eigenvalue), exponent), tries
    if 32 * b.shape[1] ** 2 + 16 * math.prod(b.shape) > memory or b.shape[1] ** 3 / 3 > operations:
        return math.inf, 0
    value, count = dense.norm_bound(torch.from_numpy(b.toarray().T.copy())[None])
    return math.ldexp(float(value), exponent), int(count)


def _sampled(b: Any, natural: NDArray[np.int64]) -> tuple[float, int]:
    """Estimates of the number of entries of `B* B` and of its band in the given order, from a sample of the columns.

    The caller halves the band, because no other order was found to do better than half of it.
    """
    chosen = np.arange(0, b.shape[1], -(-b.shape[1] // SAMPLE))
    some = (b.T @ b[:, chosen]).tocoo()
    place = np.empty_like(natural)
    place[natural] = np.arange(len(natural))
    band = int(abs(place[some.row] - place[chosen[some.col]]).max(initial=0))
    return some.nnz / len(chosen) * b.shape[1], band
