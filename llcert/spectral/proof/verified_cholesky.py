"""The solver of proved norms: chooses the factorisation for each image, within limits on memory and operations.

docs/method.md, sections 7.2 and 7.3; the order of the proofs is in `llcert.spectral.proof`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat
from llcert.spectral.linear_map import Masked, Provable
from llcert.spectral.norm import Norm, Side
from llcert.spectral.proof import dense
from llcert.spectral.proof.explicit_matrix import ExplicitMatrix, explicit_matrix
from llcert.spectral.proof.image_groups import grouped
from llcert.spectral.proof.scaling import Scaled, ldexp, scaled
from llcert.spectral.proof.sparse import SparseMap


@dataclass(frozen=True)
class VerifiedCholesky:
    """Proves upper bounds of norms: a Cholesky factorisation bounds the largest eigenvalue of `M* M` or `M M*`.

    An image whose factorisation would exceed the limits has not converged. The matrices of maps are kept, without
    masks, so the parameters of a map must not change between calls.

    largest: largest side of a Gram matrix.
    memory: bytes that a factorisation may take, and the matrix of a map.
    operations: of one factorisation, for each image that shares it.
    group: number of images that share a factorisation from the start.
    share: largest number of images that may share a factorisation that takes too many operations for fewer.
    maps: number of matrices of maps that are kept.
    """

    largest: int = 24_000
    memory: float = 2**30
    operations: float = float("inf")
    group: int = 1
    share: int = 64
    maps: int = 64
    _matrices: dict[Provable, ExplicitMatrix | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not (
            self.largest >= 1
            and self.memory > 0
            and self.operations > 0
            and self.group >= 1
            and self.share >= 1
            and self.maps >= 1
        ):
            raise InvalidInput(f"a proof of norms needs sizes of at least 1, not {self}")

    @torch.no_grad()
    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """A proved UPPER bound of the norm of every image's map; infinite, and not converged, where none was proved.

        `Norm.vector` is the start, `Norm.iterations` the number of factorisations. Map and factors must be float64.
        """
        explicit = self._explicit(masked) if self._fits(masked) else None
        value = masked.columns.new_full((masked.batch,), torch.inf)
        iterations = torch.zeros_like(value, dtype=torch.int64)
        left, size = torch.arange(masked.batch, device=value.device), self.group
        while explicit is not None and len(left):
            groups = grouped(masked.select(left), size)
            bounds, tries = self._proved(groups.masked, explicit, self.operations * size)
            value[left], iterations[left] = bounds.to(value)[groups.of], tries.to(left)[groups.of]
            left, size = left[torch.isinf(value[left])], 2 * size
            if math.isinf(self.operations) or size > self.share or size >= 2 * len(left):
                break
        return Norm(value, Side.UPPER, start, iterations, torch.isfinite(value))

    def _fits(self, masked: Masked) -> bool:
        """Whether the Gram matrix of some image is small enough. If not, the matrix of the map is not computed."""
        rows, columns = (flat(f != 0).sum(1) for f in (masked.rows, masked.columns))
        return masked.batch > 0 and int(torch.minimum(rows, columns).min()) <= self.largest

    def _proved(self, masked: Masked, explicit: ExplicitMatrix, operations: float) -> tuple[Tensor, Tensor]:
        """Upper bounds of the norms, infinite where no proof succeeded, and the number of factorisations, `[batch]`."""
        factors = scaled(masked, explicit.exponent)
        if explicit.dense:
            bound, tries = self._dense(factors, explicit, operations)
        else:
            bound, tries = self._sparse(masked, factors, explicit, operations)
        value = DOUBLE.above(bound + factors.error, 2)
        value = torch.nextafter(ldexp(value, factors.exponent), torch.full_like(value, torch.inf))
        empty = (factors.rows == 0).all(1) | (factors.columns == 0).all(1)
        value = torch.where(empty & torch.isfinite(factors.error), 0.0, value)
        return torch.where(torch.isfinite(value), value, torch.inf), tries

    def _dense(self, factors: Scaled, explicit: ExplicitMatrix, operations: float) -> tuple[Tensor, Tensor]:
        """Upper bounds of the norms of the scaled masked matrices, many images at a time, and the number of
        factorisations, `[batch]` each."""
        parts = []
        for images in self._chunks(factors):
            rows, columns = factors.rows[images], factors.columns[images]
            side = min(int((rows != 0).sum(1).max()), int((columns != 0).sum(1).max()))
            if (
                side > self.largest
                or side**3 / 3 > operations
                or 32 * side**2 + 16 * explicit.entries.numel() > self.memory
            ):
                parts.append((factors.error[images] + torch.inf, torch.zeros_like(images)))
            else:
                parts.append(dense.norm_bound(dense.compressed(explicit.entries, rows, columns)))
        bounds, tries = zip(*parts, strict=True)
        return torch.cat(bounds), torch.cat(tries)

    def _chunks(self, factors: Scaled) -> Iterator[Tensor]:
        """Indices of images, in chunks whose matrices fit into `memory`."""
        rows, columns = (int((f != 0).sum(1).max()) for f in (factors.rows, factors.columns))
        one = 16 * rows * columns + 32 * min(rows, columns) ** 2
        images = torch.arange(len(factors.rows), device=factors.rows.device)
        return iter(images.split(max(int(self.memory / 4 / max(one, 1)), 1)))

    def _sparse(
        self, masked: Masked, factors: Scaled, explicit: ExplicitMatrix, operations: float
    ) -> tuple[Tensor, Tensor]:
        """Upper bounds of the norms of the scaled masked matrices, one image after the other, and the number of
        factorisations, `[batch]` each."""
        map_ = SparseMap(explicit.entries, tuple(masked.rows.shape[1:]), tuple(masked.columns.shape[1:]))
        rows, columns = factors.rows.cpu().numpy(), factors.columns.cpu().numpy()
        found = [
            map_.norm_bound(r, c, self.largest, self.memory, operations) for r, c in zip(rows, columns, strict=True)
        ]
        bounds, tries = np.array([b for b, _ in found]), np.array([t for _, t in found])
        return torch.from_numpy(bounds).to(factors.rows.device), torch.from_numpy(tries).to(factors.rows.device)

    def _explicit(self, masked: Masked) -> ExplicitMatrix | None:
        """The matrix of the map, computed once; None where it does not fit into `memory` or is not finite."""
        map_, kinds = masked.map, {masked.rows.dtype, masked.columns.dtype}
        if not isinstance(map_, Provable) or kinds != {torch.float64}:
            raise TypeError("a proof of norms needs a map that knows its rounding, and float64")
        if map_ not in self._matrices:
            if len(self._matrices) >= self.maps:
                del self._matrices[next(iter(self._matrices))]
            self._matrices[map_] = explicit_matrix(map_, masked.columns.device, self.memory)
        return self._matrices[map_]
