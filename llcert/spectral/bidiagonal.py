"""Golub-Kahan bidiagonalisation of many maps at once, every vector kept orthogonal to all before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Action = Callable[[Tensor], Tensor]


def top_singular_value(
    apply: Action, adjoint: Action, start: Tensor, steps: int, rows: Tensor, columns: Tensor
) -> Tensor:
    """The largest singular value seen from the Krylov space of `A* A` and `start` of dimension `steps`, `[batch]`.

    In exact arithmetic the root of the Ritz value, hence never above the norm. start: `[batch, columns]`, not zero.
    rows, columns: how many of each the map has, `[batch]`, after which there is no further direction. Where rounding
    is all that is left of a new vector, it serves as a fresh direction, which can only raise the value.
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
    """What is new in a product, as a unit vector orthogonal to the basis so far, and its length."""
    rest = _without(product, basis, count)
    unit, size = _unit(rest)
    unit = _unit(_without(unit, basis, count))[0]
    return unit, size


def _without(x: Tensor, basis: Tensor, count: int) -> Tensor:
    """The part of `[batch, n]` that is orthogonal to the first vectors of a basis; twice is enough (Giraud et al.)."""
    known = basis[:, :count]
    for _ in range(2):
        x = x - ((x[:, None] @ known.mT) @ known)[:, 0]
    return x


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths, by way of the largest entry, so that squares neither vanish nor overflow."""
    peak = x.abs().amax(1, keepdim=True)
    size = torch.linalg.vector_norm(x / peak, dim=1, keepdim=True)
    return torch.where(peak == 0, x, x / peak / size), torch.where(peak == 0, peak, peak * size)[:, 0]


def _largest(bidiagonal: Tensor) -> Tensor:
    """The largest singular value of small matrices; NaN where one holds NaN or infinity."""
    if bidiagonal.numel() == 0:
        return bidiagonal.new_zeros(len(bidiagonal))
    finite = torch.isfinite(bidiagonal).all(2).all(1)
    peak = bidiagonal.abs().amax((1, 2))
    usable = finite & (peak > 0)
    scaled = torch.where(usable[:, None, None], bidiagonal / peak[:, None, None], 0.0)
    value = torch.linalg.svdvals(scaled)[:, 0] * torch.where(usable, peak, 0.0)
    return torch.where(finite, value, torch.nan)
