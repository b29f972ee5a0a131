"""Masked maps scaled by powers of two, and the error of their computed matrices (docs/method.md, section 7.2)."""

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
    """Factors of masked maps times powers of two, so that neither products nor squares overflow or underflow.

    rows, columns: `[batch, n]`, the largest of each image between a half and one, or zero. exponent: the true norm is
    `2^exponent` times that of the scaled factors and the scaled matrix, `[batch]`. error: upper bound of the spectral
    norm of the error of the computed `diag(rows) M diag(columns)`, in the scaled units, `[batch]`.
    """

    rows: Tensor
    columns: Tensor
    exponent: NDArray[np.int64]
    error: Tensor


def scaled(masked: Masked, exponent: int) -> Scaled:
    """The scaled factors of maps whose matrix was scaled by `2^-exponent`; factors >= 0."""
    map_ = masked.map
    assert isinstance(map_, Provable)
    rows, row_exponent = normalised(masked.rows)
    columns, column_exponent = normalised(masked.columns)
    error = _error(map_, flat(rows), columns, exponent)
    return Scaled(flat(rows), flat(columns), row_exponent + column_exponent + exponent, error)


def normalised(x: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
    """`x 2^-e` with a largest absolute value below one, and the exponents e, `[batch]`."""
    peak = flat(x.abs()).amax(1) if x[0].numel() else x.new_zeros(len(x))
    exponent = np.frexp(peak.cpu().numpy())[1].astype(np.int64)
    return shifted(x, -exponent), exponent


def shifted(x: Tensor, exponent: NDArray[np.int64]) -> Tensor:
    """`x 2^exponent` image by image: exact, or wrong by the smallest normal number where it underflows."""
    half = exponent // 2  # a single factor may lie outside the range of float64
    for part in (half, exponent - half):
        x = x * spread(torch.from_numpy(np.ldexp(1.0, part)).to(x.device), x)
    return x


def _error(map_: Provable, rows: Tensor, columns: Tensor, exponent: int) -> Tensor:
    """Upper bounds of the spectral norm of the error of the computed, scaled and masked matrix, `[batch]`.

    Entrywise it is at most gamma_{n+2} R N C, for the map's n roundings and two products with factors, and
    `||R N C|| <= ||R N C 1||` for a matrix without negative entries.
    """
    count, length = map_.roundings, rows.shape[1]
    reached = flat(DOUBLE.above(map_.magnitude(columns), count)) + 2 * map_.underflow
    sums = rows * shifted(reached, np.full(len(rows), -exponent))
    peak = sums.amax(1, keepdim=True)
    size = torch.linalg.vector_norm(torch.where(peak > 0, sums / peak, sums), dim=1) * peak[:, 0]
    relative = DOUBLE.gamma(count + 4) * DOUBLE.above(size, count + length + 16)
    entry = 2 * _times_power(map_.underflow, -exponent) + 2**6 * DOUBLE.tiny
    return DOUBLE.above(relative + entry * math.sqrt(max(length * columns[0].numel(), 1)), 8)


def _times_power(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent) + DOUBLE.tiny
    except OverflowError:
        return math.inf
