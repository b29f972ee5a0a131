"""Power iteration on `M* M` for every masked map M of a batch (Huang et al. 2021, Algorithm 1).

The method of the paper, for comparison; `Lanczos` needs far fewer products. docs/method.md, section 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.tensors import flat, length, spread
from llcert.spectral.estimate.start import masked_start
from llcert.spectral.linear_map import Masked
from llcert.spectral.norm import Norm, Side


@dataclass(frozen=True)
class PowerIteration:
    """Estimates norms from below: `u <- M* M u / ||M* M u||` until `||u_next - u|| <= tolerance`, for each image.

    tolerance: dimensionless; the paper's is 1e-3, at which estimates up to 1 % below the norm were measured.
    least: number of iterations before an image may stop.
    cap: largest number of iterations; an image that reaches it has not converged.
    compact: number of iterations after which converged images are taken out of the batch.
    """

    tolerance: float = 1e-4
    least: int = 10
    cap: int = 5000
    compact: int = 5

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < 1 and self.cap >= 0 and self.compact >= 1):
            raise InvalidInput(f"a power iteration needs 0 < tolerance < 1 and counts >= 0, not {self}")

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norm of every image's map: an ESTIMATE. start: `[batch, *columns]`, any length.

        A start that is zero after masking is replaced by the column factors. A map without rows or columns has norm 0;
        any other map that sends its vector to zero (underflow, or a start in its null space) has not converged.
        """
        u, empty = masked_start(masked, start)
        value = torch.where(empty, 0.0, u.new_full((masked.batch,), torch.nan))
        vector, converged = u.clone(), empty.clone()
        iterations = torch.zeros(masked.batch, dtype=torch.int64, device=u.device)
        images = torch.arange(masked.batch, device=u.device)
        running = ~converged
        for count in range(1, self.cap + 1):
            if count % self.compact == 1 or self.compact == 1:
                images, u, masked = images[running], u[running], masked.select(running)
                running = torch.ones_like(images, dtype=torch.bool)
                if len(images) == 0:
                    break
            following, norm = _step(masked, u)
            settled = torch.linalg.vector_norm(flat(following - u), dim=1) <= self.tolerance
            enough = settled if count >= self.least else torch.zeros_like(settled)
            leaving = running & (enough | ~torch.isfinite(norm)) if count < self.cap else running
            if bool(leaving.any()):
                out = images[leaving]
                value[out], vector[out], iterations[out] = norm[leaving], following[leaving], count
                converged[out] = settled[leaving]
                running = running & ~leaving
            u = following
        return Norm(value, Side.ESTIMATE, vector, iterations, converged & torch.isfinite(value))


def _step(masked: Masked, u: Tensor) -> tuple[Tensor, Tensor]:
    """One iteration from the unit vector u: the next unit vector and the estimate `||M* v||` with `v = M u / ||M u||`.

    Both are NaN where a product is zero.
    """
    image = masked.apply(u)
    product = masked.adjoint(image / spread(length(image), image))
    norm = length(product)
    return product / spread(norm, product), norm
