"""A solver that reuses the norms of its last call for images whose masks have not changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import LinearMap, Masked
from llcert.spectral.norm import Norm, Solver


@dataclass(frozen=True)
class Remembered:
    """Returns the norm of the last call for the same map where an image has the same row and column factors.

    solver: computes the other norms. `vector` of the result is the start. A norm is reused only where map, rows and
    columns are equal, so the result does not depend on the caller.
    """

    solver: Solver
    _last: dict[LinearMap, tuple[Masked, Norm]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norms; an image is compared with the one at the same position in the last batch."""
        before, norm = self._last.get(masked.map, (None, None))
        if before is None or norm is None or before.batch != masked.batch:
            norm = self.solver(masked, start)
        else:
            changed = torch.nonzero(~(_same(masked.rows, before.rows) & _same(masked.columns, before.columns)))[:, 0]
            if len(changed):
                norm = _replaced(norm, changed, self.solver(masked.select(changed), start[changed]))
        self._last[masked.map] = masked, norm
        return Norm(norm.value, norm.side, start, norm.iterations, norm.converged)


def _same(factors: Tensor, before: Tensor) -> Tensor:
    return flat(factors == before).all(1)


def _replaced(norm: Norm, images: Tensor, found: Norm) -> Norm:
    """The norms with those of some images replaced."""
    value, iterations, converged = norm.value.clone(), norm.iterations.clone(), norm.converged.clone()
    value[images], iterations[images], converged[images] = found.value, found.iterations, found.converged
    return Norm(value, found.side, None, iterations, converged)
