"""Norms with gradients: a few power iterations, and one product that is differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.region import length, spread
from llcert.spectral import Masked, Norm, Side


@dataclass(frozen=True)
class FewIterations:
    """Estimates norms from below by a fixed number of power iterations; only the last product has a gradient.

    With unit vectors `u` and `v = A u / ||A u||`, `sigma = ||A u||` has the gradient `v u*`, that of the norm itself
    where u is its singular vector (paper, Algorithm 1). mixed: whether the iterations run in bfloat16; the product that
    gives the value never does.
    """

    iterations: int
    mixed: bool = False

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norm of every image's map: an ESTIMATE. start: `[batch, *columns]`, any length."""
        with torch.no_grad():
            u = self._directions(masked, start)
        value = length(masked.apply(u))
        count = torch.full((masked.batch,), self.iterations, device=value.device)
        return Norm(value, Side.ESTIMATE, u, count, torch.isfinite(value))

    def _directions(self, masked: Masked, start: Tensor) -> Tensor:
        """Approximate right singular vectors; the columns mask in place of those that the masks wipe out."""
        u = _moderate(start * masked.columns, masked.columns)
        with torch.autocast(u.device.type, torch.bfloat16, enabled=self.mixed):
            for _ in range(self.iterations):
                u = _moderate(masked.adjoint(masked.apply(u)).to(u.dtype), u)
        size = length(u)
        return u / spread(torch.where(size > 0, size, 1.0), u)


def _moderate(x: Tensor, otherwise: Tensor) -> Tensor:
    """`x` with entries that add up to one, which takes no squares; another vector, as it is, where x is zero."""
    size = spread(torch.linalg.vector_norm(x.flatten(1), ord=1, dim=1), x)
    return torch.where(size > 0, x / size, otherwise)
