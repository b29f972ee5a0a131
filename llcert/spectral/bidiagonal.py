"""Golub-Kahan bidiagonalisation of a batch of maps with full reorthogonalisation, for `RandomLanczos`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Action = Callable[[Tensor], Tensor]


def top_singular_value(
    apply: Action, adjoint: Action, start: Tensor, steps: int, rows: Tensor, columns: Tensor
) -> Tensor:
    """The root of the largest Ritz value of `A* A` on the Krylov space of `start` of dimension `steps`, `[batch]`.

    In exact arithmetic never above the norm. start: `[batch, columns]`, not zero. rows, columns: the numbers of rows
    and columns of each map, `[batch]`, beyond which there are no further directions. A new vector that is rounding
    error alone still serves as a direction, which can only raise the value.
    """
    batch = len(start)
    steps = min(steps, int(columns.max()) if batch else 0)
    bidiagonal = start.new_zeros(batch, steps, steps)
    right = start.new_zeros(batch, steps, start.shape[1])
    left: Tensor | None = None
    v = _unit(start)[0]
    for k in range(steps):
        v = torch.where((k < columns)[:, None], v, 0.0)
        right[:, k] = v
        product = apply(v)
        if left is None:
            left = product.new_zeros(batch, steps, product.shape[1])
        u, alpha = _next(product, left, k)
        u = torch.where((k < rows)[:, None], u, 0.0)
        left[:, k] = u
        bidiagonal[:, k, k] = torch.where(k < rows, alpha, 0.0)
        v, beta = _next(adjoint(u), right, k + 1)
        if k + 1 < steps:
            bidiagonal[:, k, k + 1] = torch.where(k + 1 < columns, beta, 0.0)
    return _largest(bidiagonal)


def _next(product: Tensor, basis: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The component of a product that is orthogonal to the basis, as a unit vector and its length."""
    rest = _without(product, basis, count)
    unit, size = _unit(rest)
    unit = _unit(_without(unit, basis, count))[0]
    return unit, size


def _without(x: Tensor, basis: Tensor, count: int) -> Tensor:
    """x, `[batch, n]`, orthogonalised twice against the first vectors of a basis (Giraud et al.: twice is enough)."""
    known = basis[:, :count]
    for _ in range(2):
        x = x - ((x[:, None] @ known.mT) @ known)[:, 0]
    return x


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths, scaled by the largest entry so that squares neither underflow nor overflow."""
    peak = x.abs().amax(1, keepdim=True)
    size = torch.linalg.vector_norm(x / peak, dim=1, keepdim=True)
    return torch.where(peak == 0, x, x / peak / size), torch.where(peak == 0, peak, peak * size)[:, 0]


def _largest(bidiagonal: Tensor) -> Tensor:
    """The largest singular values of small matrices; NaN where one holds NaN or infinity."""
    if bidiagonal.numel() == 0:
        return bidiagonal.new_zeros(len(bidiagonal))
    finite = torch.isfinite(bidiagonal).all(2).all(1)
    peak = bidiagonal.abs().amax((1, 2))
    usable = finite & (peak > 0)
    scaled = torch.where(usable[:, None, None], bidiagonal / peak[:, None, None], 0.0)
    value = torch.linalg.svdvals(scaled)[:, 0] * torch.where(usable, peak, 0.0)
    return torch.where(finite, value, torch.nan)
