"""Verified arithmetic of the forward propagation: proved norms, float64, every rounding paid for.

For the prover; docs/method.md, section 12, lemmas 2 to 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.bounds.forward.arithmetic import BlockInput
from llcert.bounds.forward.joins import TermNorms
from llcert.bounds.forward.outward import activation_image, affine_image, around_centre
from llcert.bounds.forward.roundoff import BlockRoundoff, distance
from llcert.bounds.forward.row_weights import RowWeighting, global_slopes, row_weights, slopes_rounded_up
from llcert.bounds.forward.slack import TIGHT, Slack
from llcert.bounds.global_lipschitz.constants import GlobalBound
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE
from llcert.program import Block, Term
from llcert.spectral import Masked, Norm, Side, Solver, scaled_permutation_norm


@dataclass(frozen=True)
class VerifiedArithmetic:
    """Outer bounds that hold in real numbers and, where `deployed`, for every deployed evaluation of the network.

    The program is in float64. Centres are what float64 computes; boxes and radii include the errors of these.
    global_bound: proved; caps local norms, and stands in for those that the solver does not prove. solver: of local
    norms; None: the global ones alone. deployed: an evaluation of every node in its own number format, sums in any
    order. slack: what is added for a checker. Raises ValueError for a solver or a bound that only estimates.
    """

    global_bound: GlobalBound
    solver: Solver | None
    deployed: bool = False
    slack: Slack = TIGHT
    seed: int = 0

    def __post_init__(self) -> None:
        _require_proof(self.side)

    @property
    def side(self) -> Side:
        return self.global_bound.side

    @property
    def asks_norms(self) -> bool:
        return True

    @property
    def joint_solver(self) -> Solver | None:
        return None if self.solver is None else self._joint_norm

    def affine_image(self, inputs: BlockInput) -> tuple[Region, BlockRoundoff]:
        z, roundoff = affine_image(inputs.block, inputs.sources, deployed=self.deployed, slack=self.slack)
        if self.deployed:
            roundoff = around_centre(inputs.block, inputs.sources, z, roundoff, self.slack)
        return z, replace(roundoff, slip=self._slip(inputs, roundoff))

    def row_weights(self, block: Block, z: Region, weighting: RowWeighting) -> Tensor:
        weights = self.slack.weights(slopes_rounded_up(block, row_weights(block, z, weighting)))
        return torch.minimum(weights, global_slopes(block))

    def norm(self, masked: Masked, inputs: BlockInput) -> Norm:
        term = masked.map
        assert isinstance(term, Term)
        ceiling = self.global_bound.norms[term].expand(masked.batch)
        if term.is_scaled_permutation:
            found = scaled_permutation_norm(masked, masked.columns, proved=True)
        elif self.solver is None:
            found = _given(ceiling, self.side, masked)
        else:
            found = self.solver(masked, masked.columns)
            _require_proof(found.side)
        proved = found.converged & (found.value <= ceiling)
        return self._with_slack(replace(found, value=torch.where(proved, found.value, ceiling)), masked)

    def radius(self, inputs: BlockInput, norms: TermNorms, weights: Tensor, roundoff: BlockRoundoff | None) -> Tensor:
        assert roundoff is not None
        radius = DOUBLE.above(norms.deviation(inputs.radii), len(inputs.radii) + 16)
        radius = DOUBLE.above(radius + roundoff.length(weights), 2)
        if self.global_bound.includes_liplt:
            lipschitz = self.global_bound.lipschitz[inputs.block.node]
            ceiling = DOUBLE.above(lipschitz * inputs.eps + roundoff.slip, 4)
            radius = torch.where(ceiling < radius, ceiling, radius)  # a radius that is NaN stays so
        return self.slack.radius(radius)

    def lipschitz(self, inputs: BlockInput, norms: TermNorms, sources: Mapping[Node, Tensor]) -> None:
        """None: no margin of a proof needs it."""
        return

    def activation_image(
        self, inputs: BlockInput, z: Region, radius: Tensor, roundoff: BlockRoundoff | None
    ) -> tuple[MaskedRegion, BlockRoundoff]:
        assert roundoff is not None
        return activation_image(inputs.block, z, radius, roundoff, deployed=self.deployed, slack=self.slack)

    def _slip(self, inputs: BlockInput, roundoff: BlockRoundoff) -> Tensor:
        """Upper bounds of the distances of float64's value at the centre and of a deployed one from those in real
        numbers at the same points, together, weighted by the largest slopes, `[batch]` (docs/method.md, global bounds
        with rounding).

        roundoff: of the block's value before the activation.
        """
        slopes = global_slopes(inputs.block)
        own = roundoff.length(slopes)
        if self.deployed:  # what float64 errs at the centre is no part of what the evaluation errs
            own = own + distance(roundoff.float64, slopes)
        known = [inputs.roundoff.get(t.source) for t in inputs.block.terms]
        slips = [torch.zeros_like(inputs.eps) if source is None else source.slip for source in known]
        parts = [self.global_bound.norms[t] * slip for t, slip in zip(inputs.block.terms, slips, strict=True)]
        return DOUBLE.above(torch.stack([*parts, own]).sum(0), len(parts) + 4)

    def _joint_norm(self, masked: Masked, start: Tensor) -> Norm:
        assert self.solver is not None
        norm = self.solver(masked, start)
        _require_proof(norm.side)
        return self._with_slack(norm, masked)

    def _with_slack(self, norm: Norm, masked: Masked) -> Norm:
        side = min(math.prod(masked.rows.shape[1:]), math.prod(masked.columns.shape[1:]))
        return replace(norm, value=self.slack.norm(norm.value, side))


def _given(value: Tensor, side: Side, masked: Masked) -> Norm:
    """A norm that is known, `[batch]`, without an iteration."""
    none = torch.zeros(masked.batch, dtype=torch.int64, device=masked.columns.device)
    return Norm(value, side, masked.columns, none, torch.isfinite(value))


def _require_proof(side: Side) -> None:
    if side is Side.ESTIMATE:
        raise ValueError("an estimate of a norm cannot support a proof")
