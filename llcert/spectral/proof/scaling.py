"""Row and column factors scaled by powers of two, and the rounding error of a masked matrix (docs/method.md, 7.2).

A proof works on `B = fl(diag(w) A diag(v))` with all three factors scaled to at most one, so that neither products nor
squares overflow or underflow; the error of B is added to the norm that is proved of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat, spread
from llcert.spectral.linear_map import Masked, Provable


@dataclass(frozen=True)
class Scaled:
    """The factors of masked maps, scaled by powers of two.

    rows, columns: flat, `[batch, n]`. The largest factor of an image lies between 1/2 and 1, unless all are zero.
    exponent: the norm of the masked map is `2^exponent` times that of the scaled one, `[batch]`.
    error: an upper bound of the spectral norm of the error of the scaled masked matrix as computed, `[batch]`.
    """

    rows: Tensor
    columns: Tensor
    exponent: NDArray[np.int64]
    error: Tensor


def scaled(masked: Masked, exponent: int) -> Scaled:
    """The scaled factors of masked maps whose matrix is scaled by `2^-exponent` already. All factors must be >= 0."""
    map_ = masked.map
    assert isinstance(map_, Provable)
    rows, row_exponent = normalised(masked.rows)
    columns, column_exponent = normalised(masked.columns)
    error = _error(map_, flat(rows), columns, exponent)
    return Scaled(flat(rows), flat(columns), row_exponent + column_exponent + exponent, error)


def normalised(x: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
    """`x 2^-e` with a largest absolute value below one in each image, and the exponents e, `[batch]`."""
    peak = flat(x.abs()).amax(1) if x[0].numel() else x.new_zeros(len(x))
    exponent = np.frexp(peak.cpu().numpy())[1].astype(np.int64)
    return ldexp(x, -exponent), exponent


def ldexp(x: Tensor, exponent: NDArray[np.int64]) -> Tensor:
    """`x 2^exponent` with one exponent for each image: exact, or off by the smallest normal number on underflow."""
    half = exponent // 2  # a single factor may lie outside the range of float64
    for part in (half, exponent - half):
        x = x * spread(torch.from_numpy(np.ldexp(1.0, part)).to(x.device), x)
    return x


def _error(map_: Provable, rows: Tensor, columns: Tensor, exponent: int) -> Tensor:
    """Upper bounds of the spectral norm of the error of the scaled masked matrix as computed, `[batch]`.

    Entrywise the error is at most `gamma_{n+2} R N C`: n roundings of the map's entries (`Provable`, N its magnitudes)
    and two products with the factors R and C. The matrix has no negative entries, so `||R N C|| <= ||R N C 1||`.
    """
    count, length = map_.roundings, rows.shape[1]
    reached = flat(DOUBLE.above(map_.magnitude(columns), count)) + 2 * map_.underflow
    sums = rows * ldexp(reached, np.full(len(rows), -exponent))
    peak = sums.amax(1, keepdim=True)
    size = torch.linalg.vector_norm(torch.where(peak > 0, sums / peak, sums), dim=1) * peak[:, 0]
    relative = DOUBLE.gamma(count + 4) * DOUBLE.above(size, count + length + 16)
    entry = 2 * _times_power(map_.underflow, -exponent) + 2**6 * DOUBLE.tiny
    return DOUBLE.above(relative + entry * math.sqrt(max(length * columns[0].numel(), 1)), 8)


def _times_power(value: float, exponent: int) -> float:
    """An upper bound of `value 2^exponent`, for a value >= 0."""
    try:
        return math.ldexp(value, exponent) + DOUBLE.tiny
    except OverflowError:
        return math.inf
