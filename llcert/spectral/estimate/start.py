"""Start vectors of iterations for norms: random ones, and unit vectors on the columns that a mask leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.numerics.tensors import length, spread
from llcert.spectral.linear_map import Masked


def masked_start(masked: Masked, start: Tensor) -> tuple[Tensor, Tensor]:
    """The start vectors times the column factors, of length one, and whether a map has no rows or no columns,
    `[batch]`.

    start: `[batch, *columns]`, any length. One that is zero after masking is replaced by the column factors.
    """
    u = _unit(start * masked.columns)
    u = torch.where(spread(length(u) > 0, u), u, _unit(masked.columns))
    return u, (length(masked.rows) == 0) | (length(masked.columns) == 0)


def random_start(shape: tuple[int, ...], like: Tensor, seed: int | Tensor) -> Tensor:
    """Seeded Gaussian vectors, the same on every device, in the type and on the device of `like`.

    shape: `[batch, ...]`. seed: one for all images, or `[batch]`, one for each, whose vector depends on its seed alone.
    """
    generator = torch.Generator()
    if isinstance(seed, int):
        drawn = torch.randn(shape, generator=generator.manual_seed(seed), dtype=torch.float32)
    else:
        drawn = torch.empty(shape, dtype=torch.float32)
        for vector, own in zip(drawn, seed.tolist(), strict=True):
            vector.normal_(generator=generator.manual_seed(own))
    return drawn.to(like.device, like.dtype)


def _unit(x: Tensor) -> Tensor:
    """Unit vectors; zero stays zero."""
    norm = spread(length(x), x)
    return torch.where(norm > 0, x / norm, torch.zeros_like(x))
