"""Upper bounds of norms that hold with a stated probability: Lanczos from a random start.

Kuczynski and Wozniakowski 1992; docs/method.md, section 7.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat
from llcert.spectral.bidiagonal import top_singular_value
from llcert.spectral.linear_map import Masked
from llcert.spectral.norm import Norm, Side


@dataclass(frozen=True)
class RandomLanczos:
    """Upper bounds of norms, each with probability 1 - delta over its own random start.

    delta: the failure probability of one norm. inflation: relative excess of a value over the estimate behind it; more
    is cheaper and looser. seed: of all starts together; no start is drawn twice, also not in later calls. memory: bytes
    of the vectors that are kept.
    """

    delta: float = 1e-9
    inflation: float = 0.005
    seed: int = 0
    memory: float = 2**30
    _generator: torch.Generator = field(default_factory=torch.Generator, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (0 < self.delta < 1 and 0 < self.inflation < 1 and self.memory > 0):
            raise InvalidInput(f"a probable norm needs 0 < delta < 1 and 0 < inflation < 1, not {self}")
        self._generator.manual_seed(self.seed)

    @torch.no_grad()
    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """A PROBABLE upper bound of the norm of every image's map.

        start is ignored, because the bound needs a start that is independent of the map. Masks and map must be float64.
        vector: the start that was used, masked.
        """
        if {masked.rows.dtype, masked.columns.dtype} != {torch.float64}:
            raise TypeError("a probable norm needs float64")
        vector = torch.randn(masked.columns.shape, generator=self._generator, dtype=torch.float64)
        vector = vector.to(masked.columns.device) * (masked.columns != 0)
        value, steps = masked.columns.new_full((masked.batch,), torch.nan), self.steps(_most(masked.columns))
        for images in self._chunks(masked, steps):
            value[images] = self._bounds(masked.select(images), vector[images], steps)
        converged = torch.isfinite(value)
        iterations = torch.full_like(value, steps, dtype=torch.int64)
        return Norm(torch.where(converged, value, torch.inf), Side.PROBABLE, vector, iterations, converged)

    def steps(self, size: int) -> int:
        """The dimension of the Krylov space for a map of `size` columns (docs/method.md, Proposition 7.8).

        With s the tangent of the angle between the start and the top singular vectors, a Krylov space of dimension k
        has `theta >= (1 - e) lambda` as soon as `sinh((2 k - 1) atanh sqrt e) >= s`, and a uniformly random start in
        dimension n has `s > t` with probability at most `sqrt(2 n / pi) / t`.
        """
        error = 1 - (1 + self.inflation) ** -2
        needed = math.asinh(math.sqrt(2 * size / math.pi) / self.delta) / math.atanh(math.sqrt(error))
        return min(max(math.ceil((needed + 1) / 2 + 1e-9), 1), max(size, 1))

    def _bounds(self, masked: Masked, start: Tensor, steps: int) -> Tensor:
        """The root of `theta / (1 - e)`, raised by an allowance for rounding, which the theorem does not cover."""
        rows, columns = (flat(f != 0).sum(1) for f in (masked.rows, masked.columns))
        seen = top_singular_value(
            lambda x: flat(masked.apply(x.reshape(masked.columns.shape))),
            lambda y: flat(masked.adjoint(y.reshape(masked.rows.shape))),
            flat(start),
            steps,
            rows,
            columns,
        )
        finite = flat(torch.isfinite(masked.rows)).all(1) & flat(torch.isfinite(masked.columns)).all(1)
        return torch.where(finite, DOUBLE.above(seen * (1 + self.inflation) * (1 + ROUNDING)), torch.nan)

    def _chunks(self, masked: Masked, steps: int) -> Iterator[Tensor]:
        """Indices of images whose vectors fit the memory together."""
        one = 8 * steps * (masked.rows[:1].numel() + masked.columns[:1].numel())
        images = torch.arange(masked.batch, device=masked.columns.device)
        return iter(images.split(max(int(self.memory / max(one, 1)), 1)))


ROUNDING = 1e-10
"""Relative allowance for rounding: far more than was measured with full reorthogonalisation in float64, and far less
than the inflation."""


def _most(columns: Tensor) -> int:
    return int(flat(columns != 0).sum(1).max()) if columns.numel() else 0
