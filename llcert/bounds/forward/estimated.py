"""Estimated arithmetic of the forward propagation: norms by iteration, rounding not paid for, differentiable.

For the first attempt of every stage and for training; docs/method.md, sections 3 to 5 and 7.1.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.bounds.forward.arithmetic import BlockInput
from llcert.bounds.forward.box import box
from llcert.bounds.forward.joins import TermNorms
from llcert.bounds.forward.row_weights import RowWeighting, row_weights
from llcert.bounds.forward.starts import Start, starting_vector
from llcert.bounds.global_lipschitz.constants import GlobalBound
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.program import Block, Term
from llcert.spectral import Lanczos, Masked, Norm, Side, Solver, scaled_permutation_norm


class Balls(enum.Enum):
    """Where the radius of every value comes from."""

    LOCAL = "local"  # norms of each image's masked maps (eq. 6)
    GLOBAL = "global"  # unmasked norms, the same for all images (BCP)
    BOX = "box"  # none: the farthest corner of the box (interval bounds)


@dataclass(frozen=True, eq=False)
class EstimatedArithmetic:
    """Estimates of boxes, radii and norms; norms by power iteration or Lanczos.

    global_bound: of the same program; caps local norms, and stands in for those that do not converge. None for
    Balls.BOX, which needs none. saved: start vectors `[batch, *columns]` of earlier calls, for Start.SAVED. seed: of
    random starts, one or `[batch]`. joint: whether terms that add up get one more norm, of all of them side by side.
    """

    global_bound: GlobalBound | None
    balls: Balls = Balls.LOCAL
    solver: Solver = field(default_factory=Lanczos)
    start: Start = Start.UNMASKED
    saved: Mapping[Term, Tensor] | None = None
    seed: int | Tensor = 0
    joint: bool = True
    side: Side = field(default=Side.ESTIMATE, init=False)

    def __post_init__(self) -> None:
        if self.global_bound is None and self.balls is not Balls.BOX:
            raise ValueError(f"{self.balls} need the global bound")

    @property
    def asks_norms(self) -> bool:
        return self.balls is Balls.LOCAL

    @property
    def joint_solver(self) -> Solver | None:
        return self.solver if self.joint else None

    def affine_image(self, inputs: BlockInput) -> tuple[Region, None]:
        return box(inputs.block, inputs.sources), None

    def row_weights(self, block: Block, z: Region, weighting: RowWeighting) -> Tensor:
        return row_weights(block, z, weighting)

    def norm(self, masked: Masked, inputs: BlockInput) -> Norm:
        term, bound = masked.map, self.global_bound
        assert isinstance(term, Term)
        assert bound is not None
        seed = self.seed + inputs.number
        start = starting_vector(term, bound, masked.columns, self.start, self.saved, seed)
        return _unmasked_norm(inputs.block, masked, bound, start) or _local_norm(masked, bound, self.solver, start)

    def radius(self, inputs: BlockInput, norms: TermNorms, weights: Tensor, roundoff: object) -> Tensor:
        radius = norms.deviation(inputs.radii)
        if self.global_bound is None or self.balls is Balls.BOX:
            return radius
        return _at_most(radius, self.global_bound.lipschitz[inputs.block.node].expand_as(inputs.eps) * inputs.eps)

    def lipschitz(self, inputs: BlockInput, norms: TermNorms, sources: Mapping[Node, Tensor]) -> Tensor | None:
        if self.global_bound is None or self.balls is Balls.BOX:
            return None
        moved = norms.deviation([sources[t.source] for t in inputs.block.terms])
        return _at_most(moved, self.global_bound.lipschitz[inputs.block.node].expand_as(inputs.eps))

    def activation_image(
        self, inputs: BlockInput, z: Region, radius: Tensor, roundoff: object
    ) -> tuple[MaskedRegion, None]:
        phi = inputs.block.activation
        if phi is None:
            region = Region(z.centre, z.lower, z.upper, radius)
            varying = torch.stack([t.reached(inputs.sources[t.source].varying) for t in inputs.block.terms]).any(0)
        else:
            region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
            varying = phi.varying(z)
        return MaskedRegion(region.ball_to_box().box_to_ball(), varying), None


def _unmasked_norm(block: Block, masked: Masked, global_bound: GlobalBound, start: Tensor) -> Norm | None:
    """The global norm, where no image masks a row or a column of the map; None elsewhere."""
    phi = block.activation
    slopes = torch.ones(()) if phi is None else phi.global_slope(block.pre.shape)
    full = bool((masked.columns == 1).all()) and bool((masked.rows == slopes.to(masked.rows)).all())
    term = masked.map
    assert isinstance(term, Term)
    if not full or term.is_scaled_permutation:
        return None
    value = global_bound.norms[term].expand(masked.batch)
    vector = global_bound.vectors[term].expand_as(start) if term in global_bound.vectors else start
    return Norm(value, Side.ESTIMATE, vector, torch.zeros_like(value, dtype=torch.int64), torch.isfinite(value))


def _local_norm(masked: Masked, global_bound: GlobalBound, solver: Solver, start: Tensor) -> Norm:
    """The local norm, at most the global one (Theorem 1 of the paper), which stands in where the solver did not
    converge."""
    term = masked.map
    assert isinstance(term, Term)
    ceiling = global_bound.norms[term].expand(masked.batch)
    norm = scaled_permutation_norm(masked, start) if term.is_scaled_permutation else solver(masked, start)
    trusted = norm.converged & (norm.value <= ceiling)
    return Norm(torch.where(trusted, norm.value, ceiling), norm.side, norm.vector, norm.iterations, norm.converged)


def _at_most(value: Tensor, ceiling: Tensor) -> Tensor:
    """The lesser of a bound and of the global one, which stands in where the bound is NaN."""
    return torch.where(value <= ceiling, value, ceiling.expand_as(value))
