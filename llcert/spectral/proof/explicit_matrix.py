"""The matrix of a linear map that is given by its action, dense or sparse (docs/method.md, section 7.2).

Every column is found by a product with its unit vector, or together with other columns (`column_groups`): a convolution
takes as many products as its kernel has entries, whatever the size of the image. Entries are off by no more than
`Provable.roundings` and `Provable.underflow` say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from llcert.numerics.products import direct_sums
from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Provable
from llcert.spectral.proof.column_groups import axes_of, groups_of

CHUNK = 2**22
"""Largest number of entries of the vectors of one product, input or output."""


@dataclass(frozen=True)
class ExplicitMatrix:
    """The matrix of a map as `apply` computes it, times `2^-exponent`, so that its largest entry is at most one.

    entries: float64, a dense tensor `[rows, columns]`, or a scipy CSR array where at most a quarter is not zero.
    """

    entries: Any
    exponent: int

    @property
    def dense(self) -> bool:
        """Whether `entries` is a tensor; else it is a CSR array."""
        return isinstance(self.entries, Tensor)


def explicit_matrix(map_: Provable, device: torch.device, memory: float) -> ExplicitMatrix | None:
    """The matrix of a map in float64; None where it takes more than `memory` bytes, or holds NaN or infinity."""
    with torch.no_grad(), direct_sums():
        rows = map_.paths(torch.zeros(1, *map_.columns, dtype=torch.float64, device=device)).numel()
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        chunk = max(CHUNK // max(rows, math.prod(map_.columns)), 1)
        size = 0
        for groups in groups_of(axes_of(map_, device), chunk):
            values = flat(map_.apply(groups.marks()))
            if not bool(torch.isfinite(values).all()):
                return None
            group, row = values.nonzero(as_tuple=True)
            size += len(row)
            if 24 * size > memory:
                return None
            parts.append((row, groups.columns(group, row), values[group, row]))
    return _assembled(parts, (rows, math.prod(map_.columns)), device)


def _assembled(
    parts: list[tuple[Tensor, Tensor, Tensor]], shape: tuple[int, int], device: torch.device
) -> ExplicitMatrix:
    """The scaled matrix with these entries; parts: row indices, column indices and values, `[entries]` each."""
    rows, columns, values = (torch.cat(p) for p in zip(*parts, strict=True))
    largest = float(values.abs().max()) if len(values) else 0.0
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(values.cpu().numpy(), -exponent)
    if len(values) > shape[0] * shape[1] / 4:
        dense = torch.zeros(shape, dtype=torch.float64, device=device)
        dense[rows, columns] = torch.from_numpy(scaled).to(device)
        return ExplicitMatrix(dense, exponent)
    entries = sparse.csr_array((scaled, (rows.cpu().numpy(), columns.cpu().numpy())), shape=shape)
    return ExplicitMatrix(entries, exponent)
