"""A solver that spares maps of which nothing is masked (docs/decisions/norms-of-whole-maps.md)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import LinearMap, Masked
from llcert.spectral.norm import Norm, Solver


@dataclass(frozen=True)
class MaskedOnly:
    """Asks a solver for the norms of maps of which a row or a column is masked; the others have their whole map's norm.

    solver: no better at whole maps than what proved their norms. known: the maps whose whole norm is known. Where an
    image masks nothing of such a map, the value is infinite and not converged, so that the caller takes the known norm.
    """

    solver: Solver
    known: Container[LinearMap]

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norms of those that are masked, `[batch]`."""
        factors = torch.cat([flat(masked.rows), flat(masked.columns)], 1)
        images = torch.nonzero(~((factors == 1).all(1) & (masked.map in self.known)))[:, 0]
        if len(images) == masked.batch:
            return self.solver(masked, start)
        norm = self.solver(masked.select(images), start[images])
        value = factors.new_full((masked.batch,), torch.inf)
        iterations = torch.zeros_like(value, dtype=torch.int64)
        converged = torch.zeros_like(value, dtype=torch.bool)
        value[images], iterations[images], converged[images] = norm.value.to(value), norm.iterations, norm.converged
        return Norm(value, norm.side, start, iterations, converged)
