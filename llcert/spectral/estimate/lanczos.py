"""Golub-Kahan-Lanczos bidiagonalisation of a batch of masked maps, with a stopping rule for each image.

The default estimate of a norm. It keeps two vectors an image: new ones are orthogonalised against the last one alone.
Where more is needed for a theorem, `RandomLanczos` keeps all of them. docs/method.md, section 7.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.tensors import channels_last, length, spread
from llcert.spectral.estimate.start import masked_start
from llcert.spectral.linear_map import Masked
from llcert.spectral.norm import Norm, Side

_EXHAUSTED = 1e-5
"""A new direction shorter than this share of the norm is rounding error: the Krylov space ends there."""


@dataclass(frozen=True)
class Lanczos:
    """Estimates norms from below by the largest Ritz value s^2 of `M* M`, until its residual is small, for each image.

    A step costs two products, as in the power iteration, and far fewer steps are needed. Vectors are orthogonalised
    against the last one alone, which is enough for the largest value (Paige 1980; Golub and Kahan 1965).

    tolerance: bound on the relative residual `||M* M v - s^2 v|| / s^2` of the Ritz vector v, dimensionless. In the
        power iteration this is the change of the vector.
    least: number of steps before an image may stop.
    cap: largest number of steps; an image that reaches it has not converged.
    pause: ratio of successive step counts at which residuals are computed and converged images leave the batch.
    vectors: whether to compute right singular vectors too, which repeats all steps.
    """

    tolerance: float = 1e-4
    least: int = 8
    cap: int = 1000
    pause: float = 1.25
    vectors: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < 1 and self.cap >= 0 and self.least >= 1 and self.pause > 1):
            raise InvalidInput(f"Lanczos needs 0 < tolerance < 1, counts >= 0 and pauses that grow, not {self}")

    @torch.no_grad()
    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norm of every image's map: an ESTIMATE. start: `[batch, *columns]`, any length.

        A start that is zero after masking is replaced by the column factors. A map without rows or columns has norm 0;
        any other map whose products overflow or underflow to zero has not converged.
        """
        first, empty = masked_start(masked, start)
        value = torch.where(empty, 0.0, first.new_full((masked.batch,), torch.nan))
        converged = empty.clone()
        steps = torch.zeros(masked.batch, dtype=torch.int64, device=first.device)
        weights = first.new_zeros(masked.batch, 0, dtype=torch.float64)
        images = torch.nonzero(~empty)[:, 0]
        state = Bidiagonalisation.of(masked.select(images), first[images])
        for count in self._pauses():
            if len(images) == 0:
                break
            while state.count < count:
                state.step()
            found, residual, coefficients = state.largest()
            settled = residual <= self.tolerance
            leaving = settled | ~torch.isfinite(residual) if count < self.cap else torch.ones_like(settled)
            out = images[leaving]
            value[out], converged[out], steps[out] = found[leaving].to(value.dtype), settled[leaving], count
            weights = torch.nn.functional.pad(weights, (0, count - weights.shape[1]))
            weights[out] = coefficients[leaving]
            images = images[~leaving]
            state.keep(~leaving)
        vector = _combined(masked, first, weights) if self.vectors else None
        return Norm(value, Side.ESTIMATE, vector, steps, converged & torch.isfinite(value))

    def _pauses(self) -> Iterator[int]:
        """The step counts at which Ritz values are computed."""
        count = min(self.least, self.cap)
        while count < self.cap:
            yield count
            count = max(count + 1, min(int(count * self.pause), self.cap))
        if self.cap:
            yield self.cap


@dataclass
class Bidiagonalisation:
    """A bidiagonalisation `M V = U B`, `M* U = V B* + beta v e*`: B, and the last columns v of V and u of U.

    v: `[batch, *columns]`. u: `[batch, *rows]`, None before the first step. A step overwrites both.
    diagonal, above: the diagonal of B and the one above it, float64, one `[batch]` for each step. The last entry of
        `above` is beta.
    peak: the largest entry of B so far, `[batch]`.
    zero_one: whether the row factors, and whether the column factors, are 0/1 masks, which need no second application
        to a vector that is masked already.
    """

    masked: Masked
    v: Tensor
    u: Tensor | None
    diagonal: list[Tensor]
    above: list[Tensor]
    peak: Tensor
    zero_one: tuple[bool, bool]

    @staticmethod
    def of(masked: Masked, v: Tensor) -> Bidiagonalisation:
        """The state before the first step. v: masked unit vectors, `[batch, *columns]`, which are copied."""
        rows, columns = channels_last(masked.rows), channels_last(masked.columns)
        zero_one = tuple(bool(((f == 0) | (f == 1)).all()) for f in (rows, columns))
        peak = v.new_zeros(len(v), dtype=torch.float64)
        own = channels_last(v.clone())
        return Bidiagonalisation(Masked(masked.map, rows, columns), own, None, [], [], peak, (zero_one[0], zero_one[1]))

    @property
    def count(self) -> int:
        """The number of steps taken."""
        return len(self.diagonal)

    def step(self) -> None:
        """Appends a column to B, by a product with the map and one with its adjoint."""
        rows, columns, map_ = self.masked.rows, self.masked.columns, self.masked.map
        product = map_.apply(self.v if self.zero_one[1] else self.v * columns)
        u = product * rows if self.u is None else _without(product, rows, self.u, self.above[-1])
        self.u, alpha = self._next(u)
        self.diagonal.append(alpha)
        product = map_.adjoint(self.u if self.zero_one[0] else self.u * rows)
        self.v, beta = self._next(_without(product, columns, self.v, alpha))
        self.above.append(beta)

    def _next(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """The vector normalised in place, `[batch, ...]`, and its length in float64, `[batch]`.

        Both are zero where the vector is rounding error alone, shorter than `_EXHAUSTED` times the largest entry of B.
        """
        size = _size(rest)
        self.peak = torch.maximum(self.peak, size)
        size = torch.where(size < _EXHAUSTED * self.peak, 0.0, size)  # strictly: infinity is not little of infinity
        divisor = torch.where(size == 0, torch.inf, size).to(rest.dtype)
        return rest.div_(spread(divisor, rest)), size

    def largest(self) -> tuple[Tensor, Tensor, Tensor]:
        """The largest singular value s of B, its relative residual, and its right singular vector.

        `[batch]`, `[batch]`, `[batch, steps]`; the residual is that of the field `Lanczos.tolerance`. Value and
        residual are NaN where B holds NaN or infinity, or nothing but zeros.
        """
        size = self.count
        diagonal, above = torch.stack(self.diagonal, 1), torch.stack(self.above, 1)
        peak = torch.maximum(diagonal.amax(1), above.amax(1))
        usable = torch.isfinite(peak) & (peak > 0)
        scale = torch.where(usable, peak, 1.0)[:, None]
        b = torch.diag_embed(diagonal / scale)
        if size > 1:
            b = b + torch.diag_embed(above[:, :-1] / scale, offset=1)
        b = torch.where(usable[:, None, None], b, 0.0)
        squares, vectors = torch.linalg.eigh(b.mT @ b)
        square, last = squares[:, -1], vectors[:, -1, -1]
        residual = (diagonal[:, -1] * above[:, -1] / scale[:, 0].square() * last).abs() / square
        unknown = ~usable | ~(square > 0)
        value = torch.where(unknown, torch.nan, square.sqrt() * scale[:, 0])
        return value, torch.where(unknown, torch.nan, residual), vectors[..., -1]

    def keep(self, images: Tensor) -> None:
        """Keeps the images that are marked and drops the others; images: `[batch]`, bool."""
        if bool(images.all()):
            return
        some = self.masked.select(images)
        self.masked = Masked(some.map, channels_last(some.rows), channels_last(some.columns))
        self.v = channels_last(self.v[images])
        self.u = None if self.u is None else channels_last(self.u[images])
        self.diagonal = [a[images] for a in self.diagonal]
        self.above = [b[images] for b in self.above]
        self.peak = self.peak[images]


def _without(product: Tensor, mask: Tensor, last: Tensor, share: Tensor) -> Tensor:
    """`mask * product - share * last`, which overwrites `last`; share: `[batch]`, the others `[batch, ...]`."""
    return last.mul_(spread(share.to(last.dtype).neg(), last)).addcmul_(product, mask)


def _size(x: Tensor) -> Tensor:
    """Euclidean norms of vectors `[batch, ...]`, float64; squares are scaled where they would underflow or overflow."""
    if x.device.type != "cpu":  # to look at one number would be to wait for the device, twice a step
        return length(x).double()
    size, limits = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim))), torch.finfo(x.dtype)
    least, largest = limits.tiny**0.4, limits.max**0.4
    shortest, longest = (float(end) for end in size.aminmax())
    if least < shortest and longest < largest:  # not so where one is NaN
        return size.double()
    return torch.where((size > least) & (size < largest), size, length(x)).double()


def _combined(masked: Masked, first: Tensor, weights: Tensor) -> Tensor:
    """Unit right singular vectors `V w / ||V w||`, by repeating the steps from the first vectors.

    The first vector itself where `V w` is zero. weights: the right singular vectors w of B, `[batch, steps]`.
    """
    state, total = Bidiagonalisation.of(masked, first), torch.zeros_like(first)
    for column in weights.unbind(1):
        total = total + state.v * spread(column.to(first.dtype), first)
        state.step()
    size = spread(length(total), total)
    return torch.where(size > 0, total / size, first)
