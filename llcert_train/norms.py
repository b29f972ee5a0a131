"""Norms with gradients: a few power iterations, and one product that is differentiated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from llcert.numerics.tensors import flat, length, spread
from llcert.spectral import Masked, Norm, Side

Key = TypeVar("Key")


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


@dataclass(frozen=True)
class OneProduct:
    """Estimates norms from below by one product with a given vector, and leaves the iteration to the backward pass.

    The gradient of `||A u||` at a unit vector u is `A* A u / ||A u||`: what arrives at u in a step's own backward pass
    is a multiple of what a power iteration makes of u. `improved` reads it there.
    """

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The same as of `FewIterations`; the vector of the result is a leaf that gathers its gradient."""
        u = unit_leaf(start)
        value = length(masked.apply(u))
        count = torch.zeros(masked.batch, device=value.device)
        return Norm(value, Side.ESTIMATE, u, count, torch.isfinite(value))


def unit_leaf(start: Tensor) -> Tensor:
    """Unit vectors `[batch, *columns]` in the same directions, on which a gradient can be gathered."""
    with torch.no_grad():
        size = length(start)
        u = start / spread(torch.where(size > 0, size, 1.0), start)
    return u.requires_grad_(torch.is_grad_enabled())


def improved(vectors: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """What a backward pass made of the vectors of `OneProduct`; as they are where no gradient arrived."""
    return {k: u.detach() if u.grad is None else _moderate(u.grad, u.detach()) for k, u in vectors.items()}


def _moderate(x: Tensor, otherwise: Tensor) -> Tensor:
    """`x` with entries that add up to one, which takes no squares; another vector, as it is, where x is zero."""
    size = spread(torch.linalg.vector_norm(flat(x), ord=1, dim=1), x)
    return torch.where(size > 0, x / size, otherwise)
