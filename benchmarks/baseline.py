"""The rival of the speed benchmarks: the paper's evaluation as one would write it down first.

Boxes, 0/1 masks and margins as llcert computes them, but every norm of every image by power iteration from a random
start, the whole batch until its last image has settled to 1e-3, layer by layer, no cascade (Huang et al. 2021,
Algorithm 1 and the code that came with it).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.bounds import EstimatedArithmetic, GlobalBound, LastLayer, Start, propagate, worst_margins
from llcert.certification import positive
from llcert.domain.region import ball
from llcert.program import Program
from llcert.spectral import Masked, Norm, Side


@dataclass
class WholeBatch:
    """Power iteration on a batch until its last image has settled. products: made so far."""

    tolerance: float = 1e-3
    cap: int = 5000
    products: int = field(default=0)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norms, from below."""
        u = _unit(start * masked.columns)
        for _ in range(self.cap):
            v = _unit(masked.apply(u))
            product = masked.adjoint(v)
            following = _unit(product)
            change = (following - u).flatten(1).norm(dim=1)
            u = following
            self.products += 2 * masked.batch
            if bool((change <= self.tolerance).all()):
                break
        counts = torch.zeros(masked.batch, dtype=torch.int64)
        return Norm(product.flatten(1).norm(dim=1), Side.ESTIMATE, u, counts, change <= self.tolerance)


def _unit(x: Tensor) -> Tensor:
    size = x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
    return x / size.clamp(min=1e-30)


def certified(program: Program, bound: GlobalBound, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Which images the local bound of the paper certifies, boolean `[images]`."""
    arithmetic = EstimatedArithmetic(bound, solver=WholeBatch(), start=Start.RANDOM, joint=False)
    trace = propagate(program, ball(images, eps), arithmetic)
    logits = program.logits(images)
    return positive(worst_margins(logits, labels, LastLayer.of(program), trace.post_activation).amin(1))
