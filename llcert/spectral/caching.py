"""A solver that reuses norms of its last call for images whose masks are the same.

A proof propagates a batch several times with slightly different choices; most masks of most layers stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import LinearMap, Masked
from llcert.spectral.norm import Norm, Solver


@dataclass(frozen=True)
class CachingSolver:
    """Norms of `solver`, computed only for images whose row or column factors differ from the last call for this map.

    An image is compared with the one at the same position of the last batch. A norm is reused only where map, rows and
    columns are equal, so that it is the norm of what was asked for. The `vector` of a result is the start.
    """

    solver: Solver
    _last: dict[LinearMap, tuple[Masked, Norm]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norm of every image's map, on the side of the solver; start: `[batch, *columns]`, for the solver."""
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
    """Whether all factors of an image are equal, `[batch]`; NaN equals nothing."""
    return flat(factors == before).all(1)


def _replaced(norm: Norm, images: Tensor, found: Norm) -> Norm:
    """The norms, with `found` for some images; images: indices."""
    value, iterations, converged = norm.value.clone(), norm.iterations.clone(), norm.converged.clone()
    value[images], iterations[images], converged[images] = found.value, found.iterations, found.converged
    return Norm(value, found.side, None, iterations, converged)
