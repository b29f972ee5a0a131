"""Bounds of convolutions without masks, by the Fourier transform of a padded torus (METHOD, 4f)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from llcert.rounding import DOUBLE
from llcert.spectral.dense import norm_bound
from llcert.spectral.gram import roundings
from llcert.spectral.scaling import normalised, shifted

Shape = tuple[int, ...]

CHUNK = 2**24
"""Complex entries that are held at a time."""

PHASE = 2.0**-48
"""Above the error of a computed `exp(i t)`, 0 <= t < 2 pi: three roundings of the angle, a sine and a cosine."""


def torus_bound(weight: Tensor, outputs: Shape, stride: Shape, dilation: Shape, groups: int = 1) -> float:
    """An upper bound of the norm of a zero-padded convolution, whatever its padding; infinite where none was proved.

    weight: `[out, in / groups, *kernel]`; outputs: positions of the kernel on each axis. A torus with room for all that
    the kernel reads holds the convolution as a part of a circular one, which is as large as the largest block of its
    Fourier transform: a matrix of output channels by input channels and residues modulo the stride.
    """
    weight = weight.detach().to("cpu", torch.float64)
    if weight.numel() == 0 or min(outputs, default=1) < 1:
        return 0.0
    taps = [_taps(*sizes) for sizes in zip(weight.shape[2:], outputs, stride, dilation, strict=True)]
    phases, residues = _joined(taps, stride)
    return max(_largest_block(w.flatten(2), phases, residues) for w in weight.chunk(groups))


def _taps(kernel: int, outputs: int, stride: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Phases of the taps of one axis at every frequency, `[frequencies, kernel]`, and their residues, `[kernel]`."""
    sites = torch.arange(kernel) * dilation
    reach = stride * (outputs - 1) + dilation * (kernel - 1) + 1
    count = -(-reach // stride)
    turns = torch.arange(count)[:, None] * (sites // stride) % count
    angle = turns.double() * (2 * math.pi) / count
    return torch.complex(angle.cos(), angle.sin()), sites % stride


def _joined(taps: list[tuple[Tensor, Tensor]], stride: Shape) -> tuple[Tensor, Tensor]:
    """The same for all axes together, `[frequencies, taps]` and `[taps]`; a frequency and its negative are alike."""
    (phases, residues), *others = taps
    phases = phases[: len(phases) // 2 + 1]
    for (more, other), step in zip(others, stride[1:], strict=True):
        phases = (phases[:, None, :, None] * more[None, :, None, :]).flatten(2).flatten(0, 1)
        residues = (residues[:, None] * step + other).flatten()
    return phases, residues


def _largest_block(weight: Tensor, phases: Tensor, residues: Tensor) -> float:
    """The bound for one group of channels; weight: `[out, in, taps]`.

    Entries of a block are sums of weights times phases. Their errors, in the Frobenius norm, come on top.
    """
    scaled, exponent = normalised(weight[None])
    classes = [torch.nonzero(residues == r)[:, 0] for r in residues.unique()]
    sizes = torch.stack([scaled[0][:, :, c].abs().sum(2) for c in classes])
    relative = DOUBLE.gamma(roundings(weight.shape[2])) + 2 * PHASE + 2.0**-49
    error = DOUBLE.bound(relative) * DOUBLE.bound(float(torch.linalg.vector_norm(sizes)), weight.numel() + 8)
    error += 2**12 * weight.numel() * DOUBLE.tiny
    short, long = sorted((weight.shape[0], weight.shape[1] * len(classes)))
    largest = max(
        float(norm_bound(_blocks(scaled[0], part, classes))[0].max())
        for part in phases.split(max(CHUNK // (short * (long + 3 * short)), 1))
    )
    value = torch.tensor([DOUBLE.bound(largest + error, 2)], dtype=torch.float64)
    value = torch.nextafter(shifted(value, np.asarray(exponent)), torch.full_like(value, torch.inf))
    return float(value) if float(value) < math.inf else math.inf


def _blocks(weight: Tensor, phases: Tensor, classes: list[Tensor]) -> Tensor:
    """The blocks at some frequencies, `[frequencies, n, k]`, n <= k."""
    parts = [torch.einsum("ft,oit->foi", phases[:, c], weight[:, :, c].to(phases.dtype)) for c in classes]
    blocks = torch.cat(parts, 2)
    return blocks.mT if blocks.shape[1] > blocks.shape[2] else blocks
