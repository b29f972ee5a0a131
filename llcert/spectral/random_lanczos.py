"""Upper bounds of norms that hold with a stated probability: Lanczos from a random start.

For the assurance `probabilistic` (Kuczynski and Wozniakowski 1992; docs/method.md, section 7.5). A norm costs a number
of steps that is known in advance, about 130 for the defaults, whatever the spectrum; all Lanczos vectors are kept,
since the theorem is one of exact arithmetic and they must stay orthogonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Masked
from llcert.spectral.norm import Norm, Side

Action = Callable[[Tensor], Tensor]

ROUNDING = 1e-10
"""Relative allowance for rounding: far more than was measured with full reorthogonalisation in float64, and far less
than the inflation."""


@dataclass(frozen=True)
class RandomLanczos:
    """Upper bounds of norms, each of which holds with probability 1 - delta over its own random start.

    delta: probability that one norm is false.
    inflation: relative excess of a bound over the Ritz value behind it. A larger one is cheaper and looser.
    seed: of the sequence of starts. Every norm takes the next one, in later calls too: masks depend on earlier norms.
    memory: bytes that the Lanczos vectors of the images of one pass may take.
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

        `start` is ignored, because the theorem needs one that is independent of the map. Masks and map must be float64.
        `Norm.vector` is the start that was used, masked.
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

        With lambda the largest eigenvalue of `M* M`, theta its Ritz value and s the tangent of the angle between the
        start and the eigenvectors of lambda, a Krylov space of dimension k has `theta >= (1 - e) lambda` as soon as
        `sinh((2 k - 1) atanh sqrt e) >= s`. A uniformly random start in dimension n has `s > t` with probability at
        most `sqrt(2 n / pi) / t`, here delta.
        """
        error = 1 - (1 + self.inflation) ** -2
        needed = math.asinh(math.sqrt(2 * size / math.pi) / self.delta) / math.atanh(math.sqrt(error))
        return min(max(math.ceil((needed + 1) / 2 + 1e-9), 1), max(size, 1))

    def _bounds(self, masked: Masked, start: Tensor, steps: int) -> Tensor:
        """The bound `sqrt(theta / (1 - e))` of each image, `[batch]`, raised by `ROUNDING`; NaN for factors that are
        not finite. The theorem does not cover rounding."""
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
        """Indices of images, in chunks whose Lanczos vectors fit into `memory`."""
        one = 8 * steps * (masked.rows[:1].numel() + masked.columns[:1].numel())
        images = torch.arange(masked.batch, device=masked.columns.device)
        return iter(images.split(max(int(self.memory / max(one, 1)), 1)))


def _most(columns: Tensor) -> int:
    """The largest number of nonzero column factors of an image."""
    return int(flat(columns != 0).sum(1).max()) if columns.numel() else 0


def top_singular_value(
    apply: Action, adjoint: Action, start: Tensor, steps: int, rows: Tensor, columns: Tensor
) -> Tensor:
    """The root of the largest Ritz value of `M* M` on the Krylov space of `start` of dimension `steps`, `[batch]`.

    By Golub-Kahan bidiagonalisation with full reorthogonalisation. In exact arithmetic at most the norm. start:
    `[batch, columns]`, not zero. rows, columns: the numbers of nonzero rows and columns of each map, `[batch]`; there
    are no more directions than these. A new vector that is rounding error alone still serves as a direction, which can
    only raise the value.
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
    """The component of a product orthogonal to the first `count` vectors of a basis: a unit vector and its length."""
    rest = _without(product, basis, count)
    unit, size = _unit(rest)
    unit = _unit(_without(unit, basis, count))[0]
    return unit, size


def _without(x: Tensor, basis: Tensor, count: int) -> Tensor:
    """x, `[batch, n]`, orthogonalised twice against the first `count` vectors of a basis `[batch, steps, n]`.

    Twice is enough (Giraud, Langou, Rozloznik 2005).
    """
    known = basis[:, :count]
    for _ in range(2):
        x = x - ((x[:, None] @ known.mT) @ known)[:, 0]
    return x


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors `[batch, n]` and lengths `[batch]`; scaled first, so that squares neither underflow nor overflow."""
    peak = x.abs().amax(1, keepdim=True)
    size = torch.linalg.vector_norm(x / peak, dim=1, keepdim=True)
    return torch.where(peak == 0, x, x / peak / size), torch.where(peak == 0, peak, peak * size)[:, 0]


def _largest(bidiagonal: Tensor) -> Tensor:
    """The largest singular values of small matrices `[batch, n, n]`; NaN where one holds NaN or infinity."""
    if bidiagonal.numel() == 0:
        return bidiagonal.new_zeros(len(bidiagonal))
    finite = torch.isfinite(bidiagonal).all(2).all(1)
    peak = bidiagonal.abs().amax((1, 2))
    usable = finite & (peak > 0)
    scaled = torch.where(usable[:, None, None], bidiagonal / peak[:, None, None], 0.0)
    value = torch.linalg.svdvals(scaled)[:, 0] * torch.where(usable, peak, 0.0)
    return torch.where(finite, value, torch.nan)
