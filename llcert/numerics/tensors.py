"""Batched tensors: per-image numbers broadcast, axes flattened, and Euclidean norms that neither overflow nor
underflow.

Used wherever values `[batch, *shape]` meet numbers `[batch]`; the norms are those of docs/method.md, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.numerics import gradients

_MODERATE = (1e-140, 1e140)
"""Between these norms, no square that matters overflows or underflows in float64."""


def flat(values: Tensor, start: int = 1) -> Tensor:
    """The axes from `start` on flattened into one, `[batch, entries]`; a value without axes has one entry."""
    return values[..., None].flatten(start)


def spread(per_image: Tensor, like: Tensor) -> Tensor:
    """`[batch]` reshaped to `[batch, 1, ...]` so that it broadcasts against `like`."""
    return per_image.reshape(-1, *[1] * (like.ndim - 1))


def channels_last(x: Tensor) -> Tensor:
    """The same values in the memory layout that convolutions on a CPU are fastest with; unchanged on other devices."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 and x.device.type == "cpu" else x


def length(x: Tensor, start: int = 1) -> Tensor:
    """The Euclidean norm over the axes from `start` on, summed in float64: no square underflows or overflows.

    Squares of float32 numbers fit float64. Float64 numbers are scaled by a power of two, which is exact, unless all
    norms are far from the ends of the range (tested on the CPU alone: on a GPU the test would wait for the device).
    """
    if x.dtype != torch.float64 and x.ndim > start:
        return gradients.length(x, start)
    entries = flat(x, start)
    if entries.numel() == 0:
        return torch.linalg.vector_norm(entries, dim=-1)
    if x.device.type == "cpu":
        plain = torch.linalg.vector_norm(entries, dim=-1)
        least, largest = plain.detach().aminmax()
        if _MODERATE[0] < float(least) and float(largest) < _MODERATE[1]:
            return plain
    exponent = torch.frexp(entries.detach().abs().amax(-1, keepdim=True)).exponent.clamp(-1000, 1000)
    scale = torch.ldexp(torch.ones_like(exponent, dtype=x.dtype), -exponent)
    return torch.linalg.vector_norm(entries * scale, dim=-1) / scale[..., 0]
