"""Verified arithmetic: proved norms, float64, every rounding paid for (docs/method.md, section 12)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.bounds.forward.arithmetic import BlockInput
from llcert.bounds.forward.box import Hidden
from llcert.bounds.forward.joins import BranchNorms
from llcert.bounds.forward.outward import activation_image, affine_image
from llcert.bounds.forward.roundoff import BlockRoundoff, distance
from llcert.bounds.forward.row_weights import RowWeighting, rounded_up, row_weights, steepest
from llcert.bounds.forward.slack import TIGHT, Slack
from llcert.bounds.global_lipschitz.walk import GlobalBound
from llcert.domain.region import Region
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat
from llcert.program import Block, Term
from llcert.spectral import Masked, Norm, Side, Solver


@dataclass(frozen=True)
class VerifiedArithmetic:
    """Outer bounds that hold for the network in real numbers and, if asked, as it is deployed. Program: in float64.

    Centres are the values float64 computes; what they miss is in boxes and radii. global_bound: proved, in place of
    every norm that the solver does not prove. solver: of the local norms; None: the global ones alone. deployed:
    whether also of the network as it is run, node by node, every value in its own format, sums in any order. slack:
    what is added for a checker. Raises ValueError for a solver or a bound that only estimates.
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
    def local(self) -> bool:
        return True

    @property
    def joint_solver(self) -> Solver | None:
        return None if self.solver is None else self._joint_norm

    def affine_image(self, entry: BlockInput) -> tuple[Region, BlockRoundoff]:
        z, roundoff = affine_image(entry.block, entry.sources, deployed=self.deployed, slack=self.slack)
        return z, replace(roundoff, slip=self._slip(entry, distance(roundoff.error, steepest(entry.block))))

    def row_weights(self, block: Block, z: Region, weighting: RowWeighting) -> Tensor:
        weights = self.slack.weights(rounded_up(block, row_weights(block, z, weighting)))
        return torch.minimum(weights, steepest(block))

    def norm(self, masked: Masked, entry: BlockInput) -> Norm:
        term = masked.map
        assert isinstance(term, Term)
        ceiling = self.global_bound.norms[term].expand(masked.batch)
        if term.moves:
            found = _movement_norm(term, masked)
        elif self.solver is None:
            found = _without_vector(ceiling, self.side, masked)
        else:
            found = self.solver(masked, masked.columns)
            _require_proof(found.side)
        proved = found.converged & (found.value <= ceiling)
        return self._with_slack(replace(found, value=torch.where(proved, found.value, ceiling)), masked)

    def radius(
        self, entry: BlockInput, branches: BranchNorms, weights: Tensor, roundoff: BlockRoundoff | None
    ) -> Tensor:
        assert roundoff is not None
        radius = DOUBLE.above(branches.movement(entry.radii), len(entry.radii) + 16)
        radius = DOUBLE.above(radius + distance(roundoff.error, weights), 2)
        if self.global_bound.with_liplt:
            lipschitz = self.global_bound.lipschitz[entry.block.node]
            ceiling = DOUBLE.above(lipschitz * entry.eps + 2 * roundoff.slip, 4)
            radius = torch.where(ceiling < radius, ceiling, radius)  # a radius that is NaN stays so
        return self.slack.radius(radius)

    def lipschitz(self, entry: BlockInput, branches: BranchNorms, sources: Mapping[Node, Tensor]) -> None:
        """No margin needs it of a proof."""
        return

    def activation_image(
        self, entry: BlockInput, z: Region, radius: Tensor, roundoff: BlockRoundoff | None
    ) -> tuple[Hidden, BlockRoundoff]:
        assert roundoff is not None
        hidden, after = activation_image(entry.block, z, radius, roundoff, deployed=self.deployed, slack=self.slack)
        slip = roundoff.slip
        if entry.block.activation is not None:
            slip = DOUBLE.above(slip + distance(after), 2)
        return hidden, replace(roundoff, after=after, slip=slip)

    def _slip(self, entry: BlockInput, own: Tensor) -> Tensor:
        """How far an evaluation's value, times the activation's slopes, is from that in real numbers, `[batch]`.

        At one point. own: what the block itself errs.
        """
        known = [entry.roundoff.get(t.source) for t in entry.block.terms]
        slips = [torch.zeros_like(entry.eps) if source is None else source.slip for source in known]
        parts = [self.global_bound.norms[t] * slip for t, slip in zip(entry.block.terms, slips, strict=True)]
        return DOUBLE.above(torch.stack([*parts, own]).sum(0), len(parts) + 4)

    def _joint_norm(self, masked: Masked, start: Tensor) -> Norm:
        assert self.solver is not None
        norm = self.solver(masked, start)
        _require_proof(norm.side)
        return self._with_slack(norm, masked)

    def _with_slack(self, norm: Norm, masked: Masked) -> Norm:
        side = min(math.prod(masked.rows.shape[1:]), math.prod(masked.columns.shape[1:]))
        return replace(norm, value=self.slack.norm(norm.value, side))


def _movement_norm(term: Term, masked: Masked) -> Norm:
    """Of a map with at most one entry a row and a column: the largest."""
    largest = flat(masked.rows * term.magnitude(masked.columns)).amax(1)
    value = DOUBLE.above(largest, term.roundings + 2) + term.underflow
    return _without_vector(value, Side.UPPER, masked)


def _without_vector(value: Tensor, side: Side, masked: Masked) -> Norm:
    none = torch.zeros(masked.batch, dtype=torch.int64, device=masked.columns.device)
    return Norm(value, side, masked.columns, none, torch.isfinite(value))


def _require_proof(side: Side) -> None:
    if side is Side.ESTIMATE:
        raise ValueError("an estimate of a norm cannot support a proof")
