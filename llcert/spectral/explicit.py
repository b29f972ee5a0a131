"""The matrices of linear maps, dense or sparse, found by products with sums of unit vectors.

docs/method.md, section 7.2.
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
from llcert.spectral.periods import axes_of, groups_of

CHUNK = 2**22
"""Largest number of entries of the vectors that are multiplied together at a time."""


@dataclass(frozen=True)
class Explicit:
    """The matrix of a map as `apply` computes it, times `2^-exponent`, so that its largest entry is at most one.

    entries: a dense tensor `[rows, columns]` or a scipy CSR array; float64. The map's `roundings` and `underflow` bound
    the error of each entry.
    """

    entries: Any
    exponent: int

    @property
    def dense(self) -> bool:
        return isinstance(self.entries, Tensor)


def written_out(map_: Provable, device: torch.device, memory: float) -> Explicit | None:
    """The matrix of a map; None where it takes more than `memory` bytes, or holds NaN or infinity."""
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


def _assembled(parts: list[tuple[Tensor, Tensor, Tensor]], shape: tuple[int, int], device: torch.device) -> Explicit:
    rows, columns, values = (torch.cat(p) for p in zip(*parts, strict=True))
    largest = float(values.abs().max()) if len(values) else 0.0
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(values.cpu().numpy(), -exponent)
    if len(values) > shape[0] * shape[1] / 4:
        dense = torch.zeros(shape, dtype=torch.float64, device=device)
        dense[rows, columns] = torch.from_numpy(scaled).to(device)
        return Explicit(dense, exponent)
    entries = sparse.csr_array((scaled, (rows.cpu().numpy(), columns.cpu().numpy())), shape=shape)
    return Explicit(entries, exponent)
