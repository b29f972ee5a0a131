"""Power iteration on masked maps (Huang et al. 2021, Algorithm 1), each image with its own stopping time.

docs/method.md, section 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.tensors import flat, length, spread
from llcert.spectral.linear_map import Masked
from llcert.spectral.norm import Norm, Side


@dataclass(frozen=True)
class PowerIteration:
    """Estimates norms from below: `u <- A* A u / ||A* A u||` until `||u_next - u|| <= tolerance`, for each image.

    tolerance: dimensionless; the paper's is 1e-3, at which estimates up to 1 % below the norm were measured. least:
    iterations before an image may stop. cap: largest number of iterations of an image; one that reaches it has not
    converged. compact: images that have converged leave the batch every so many iterations.
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

        A start that is zero after masking is replaced by the columns mask. A map without rows or columns has norm 0;
        one that maps its vector to zero otherwise (underflow, or a start in its null space) has not converged.
        """
        u, empty = begin(masked, start)
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
    """One iteration: the next unit vector and `||A* v||`, `v = A u / ||A u||`; NaN where a product is zero."""
    image = masked.apply(u)
    product = masked.adjoint(image / spread(length(image), image))
    norm = length(product)
    return product / spread(norm, product), norm


def begin(masked: Masked, start: Tensor) -> tuple[Tensor, Tensor]:
    """Masked unit vectors to start from, and whether a map has no rows or no columns, `[batch]`.

    A start that is zero after masking is replaced by the columns mask.
    """
    u = _unit(start * masked.columns)
    u = torch.where(spread(length(u) > 0, u), u, _unit(masked.columns))
    return u, (length(masked.rows) == 0) | (length(masked.columns) == 0)


def random_start(shape: tuple[int, ...], like: Tensor, seed: int | Tensor) -> Tensor:
    """Seeded Gaussian vectors, the same for every device, in the type and on the device of `like`.

    shape: `[batch, ...]`. seed: one for all, or `[batch]`, one for each image, whose vector then depends on it alone.
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
    norm = spread(length(x), x)
    return torch.where(norm > 0, x / norm, torch.zeros_like(x))
