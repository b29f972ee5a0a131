"""The norm of a scaled permutation: a map of which no row and no column has two entries, such as a transposition or a
padding (docs/method.md, section 7)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Masked, Provable
from llcert.spectral.norm import Norm, Side


def scaled_permutation_norm(masked: Masked, vector: Tensor, *, proved: bool = False) -> Norm:
    """The norm of a masked scaled permutation, its largest entry, without an iteration.

    Exact up to rounding, or an upper bound where it is to be proved, in float64. vector: what to give back as the
    vector of the norm, `[batch, *columns]`.
    """
    map_ = cast(Provable, masked.map)
    value = flat(masked.rows * map_.magnitude(masked.columns)).amax(1)
    if proved:
        value = DOUBLE.above(value, map_.roundings + 2) + map_.underflow
    return Norm(value, Side.UPPER, vector, torch.zeros_like(value, dtype=torch.int64), torch.isfinite(value))
