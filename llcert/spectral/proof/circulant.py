"""Proved norms of whole convolutions, by a circulant embedding and its Fourier transform (docs/method.md, section 7.4).

A zero-padded convolution is a part of a circular one on a torus with room for the padding. The circular convolution is
block diagonal in the Fourier basis, one block of output channels by input channels for each frequency, whose norms are
proved by dense factorisations (`dense`). The cost is that of frequencies times channels^3, far less than a
factorisation of the Gram matrix of the whole map; the bound is a little above the norm, the more so the smaller the
image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from llcert.numerics.rounding import DOUBLE
from llcert.spectral.proof.dense import norm_bound
from llcert.spectral.proof.eigenvalue import roundings
from llcert.spectral.proof.scaling import ldexp, normalised

Shape = tuple[int, ...]

CHUNK = 2**24
"""Largest number of complex entries of blocks that are held at a time."""

STEPS, LIKELY = 8, 2**18
"""To choose between tori: power iterations on every block, and how many entries the Gram matrices of the blocks may
have whose eigenvalues are then computed."""

PHASE = 2.0**-48
"""An upper bound of the error of a computed `exp(i t)`, 0 <= t < 2 pi: three roundings of t, a sine and a cosine."""


def torus_bound(
    weight: Tensor,
    inputs: Shape,
    outputs: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int = 1,
) -> float:
    """A proved UPPER bound of the norm of a zero-padded convolution; infinite where none was proved.

    weight: `[out, in / groups, *kernel]`. inputs: sites of the image on each axis. outputs: positions of the kernel on
    each axis. padding: zeros before the image.

    The convolution is a part of a circular one on a torus with enough sites for the image and for the zeros of its
    wider side. That one's norm is the largest norm of a block of its Fourier transform: output channels by input
    channels and residues modulo the stride. The same holds for a torus on which values change their sign when they go
    round an axis, whose frequencies lie half-way between the others. Of all choices of signs, the one with the least
    estimate is proved.
    """
    weight = weight.detach().to("cpu", torch.float64)
    if weight.numel() == 0 or min(outputs, default=1) < 1:
        return 0.0
    if not bool(torch.isfinite(weight).all()):
        return math.inf
    axes = list(zip(weight.shape[2:], inputs, outputs, stride, padding, dilation, strict=True))
    counts = [_count(*axis) for axis in axes]
    tori = []
    for signs in product((0, 1), repeat=len(axes)):
        taps = [
            _taps(kernel, count, step, spread, sign)
            for (kernel, _, _, step, _, spread), count, sign in zip(axes, counts, signs, strict=True)
        ]
        tori.append(_joined(taps, stride))
    return max(_group_bound(w.flatten(2), tori) for w in weight.chunk(groups))


def _count(kernel: int, inputs: int, outputs: int, stride: int, padding: int, dilation: int) -> int:
    """The least number of kernel positions on one axis of the torus.

    The kernel reads sites from -padding on. Sites outside the image must not fall on sites of the image when they are
    wrapped around.
    """
    end = stride * (outputs - 1) + dilation * (kernel - 1) + 1 - padding
    return max(-(-(min(inputs, end) + max(padding, end - inputs)) // stride), outputs)


def _taps(kernel: int, count: int, stride: int, dilation: int, sign: int) -> tuple[Tensor, Tensor]:
    """Phases of the kernel's taps on one axis at every frequency, `[frequencies, kernel]`, and the residues of their
    sites modulo the stride, `[kernel]`.

    sign: 1 for the torus on which values change their sign when they go round, else 0.
    """
    sites = torch.arange(kernel) * dilation
    turns = (2 * torch.arange(count)[:, None] + sign) * (sites // stride) % (2 * count)
    angle = turns.double() * math.pi / count
    return torch.complex(angle.cos(), angle.sin()), sites % stride


def _joined(taps: list[tuple[Tensor, Tensor]], stride: Shape) -> tuple[Tensor, Tensor]:
    """Phases and residues on all axes together, `[frequencies, taps]` and `[taps]`.

    Of a frequency and its negative only one is kept, because their blocks are conjugate.
    """
    (phases, residues), *others = taps
    phases = phases[: len(phases) // 2 + 1]
    for (more, other), step in zip(others, stride[1:], strict=True):
        phases = (phases[:, None, :, None] * more[None, :, None, :]).flatten(2).flatten(0, 1)
        residues = (residues[:, None] * step + other).flatten()
    return phases, residues


def _group_bound(weight: Tensor, tori: Sequence[tuple[Tensor, Tensor]]) -> float:
    """An upper bound of the norm for one group of channels; weight: `[out, in, taps]`. tori: phases and residues of
    each."""
    scaled, exponent = normalised(weight[None])
    spectra = [Spectrum(scaled[0], *phases) for phases in tori]
    largest = min(spectra, key=Spectrum.estimate).bound()
    value = torch.tensor([largest], dtype=torch.float64)
    value = torch.nextafter(ldexp(value, np.asarray(exponent)), torch.full_like(value, torch.inf))
    return float(value) if float(value) < math.inf else math.inf


@dataclass(frozen=True)
class Spectrum:
    """The Fourier transform of a convolution on a torus.

    weight: `[out, in, taps]`, no entry above one. phases: of every tap at every frequency, `[frequencies, taps]`.
    residues: of the taps' sites modulo the stride, `[taps]`.
    """

    weight: Tensor
    phases: Tensor
    residues: Tensor

    @property
    def classes(self) -> list[Tensor]:
        """The indices of the taps of each residue that occurs."""
        return [torch.nonzero(self.residues == r)[:, 0] for r in self.residues.unique()]

    def blocks(self) -> Iterator[Tensor]:
        """The blocks or their transposes, `[frequencies, n, k]` with n <= k, `CHUNK` entries at a time."""
        classes = self.classes
        short, long = sorted((self.weight.shape[0], self.weight.shape[1] * len(classes)))
        for phases in self.phases.split(max(CHUNK // (short * (long + 3 * short)), 1)):
            parts = [torch.einsum("ft,oit->foi", phases[:, c], self.weight[:, :, c].to(phases.dtype)) for c in classes]
            blocks = torch.cat(parts, 2)
            yield blocks.mT if blocks.shape[1] > blocks.shape[2] else blocks

    def estimate(self) -> float:
        """An estimate of the largest norm of a block."""
        return max(_estimated(blocks) for blocks in self.blocks())

    def bound(self) -> float:
        """An upper bound of the largest norm of a block.

        Entries of a block are sums of weights times phases; the Frobenius norm of their rounding errors is added.
        """
        sizes = torch.stack([self.weight[:, :, c].abs().sum(2) for c in self.classes])
        relative = DOUBLE.gamma(roundings(self.weight.shape[2])) + 2 * PHASE + 2.0**-49
        error = DOUBLE.above(relative) * DOUBLE.above(float(torch.linalg.vector_norm(sizes)), self.weight.numel() + 8)
        error += 2**12 * self.weight.numel() * DOUBLE.tiny
        largest = max(float(norm_bound(blocks)[0].max()) for blocks in self.blocks())
        return DOUBLE.above(largest + error, 2)


def _estimated(blocks: Tensor) -> float:
    """An estimate of the largest norm of a block, exact for the blocks that grow most in a few power iterations."""
    x = torch.randn(*blocks.shape[:2], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(blocks)
    size = torch.zeros(0)
    for _ in range(STEPS):
        x = blocks @ (blocks.mH @ x)
        size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        x = x / size.clamp(min=DOUBLE.tiny)
    count = min(max(LIKELY // blocks.shape[1] ** 2, 4), len(blocks))
    likely = blocks[size[:, 0, 0].topk(count).indices]
    return math.sqrt(max(float(torch.linalg.eigvalsh(likely @ likely.mH).max()), 0.0))
