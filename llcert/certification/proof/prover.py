"""The prover: lower bounds of margins in float64, with proved norms and every rounding paid for (docs/method.md,
sections 12 and 14).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from llcert.bounds import TIGHT, GlobalBound, Slack, Trace, VerifiedArithmetic, pairwise_margins, propagate
from llcert.bounds.backward.alpha import Ascent
from llcert.bounds.backward.crown import Backward, differences
from llcert.bounds.backward.intermediate import Colorings, IntermediateBounds, intermediate_bounds
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.proof import ProvedLipLT
from llcert.certification.heads import rounding, told_apart
from llcert.certification.proof.attempts import Attempt, Objectives, ascended, branched, closed, repeated
from llcert.certification.proof.evidence import (
    ObjectiveEvidence,
    Pair,
    Proof,
    Regions,
    evidence_at_last_hidden,
    with_evidence,
)
from llcert.certification.proof.hint import ProofHint
from llcert.certification.specification import FIRST, Specification
from llcert.domain.pixel_range import PixelRange
from llcert.domain.region import Region
from llcert.ir import Node, Op
from llcert.numerics.products import direct_sums
from llcert.numerics.tensors import flat
from llcert.ops import Sigmoid
from llcert.program import Program
from llcert.spectral import CachingSolver, Side, Solver

_LEAST = 1e-7
"""Share of the largest logit that a margin with evidence must exceed, for the rounding of the checker."""

_ENOUGH = 1e-4
"""Share of the largest logit above which an ascent stops where evidence is kept: evidence in float32 costs less."""


@dataclass(frozen=True)
class Prover:
    """Lower bounds of margins, rounding included: the counterpart of `Estimator` in float64.

    program: the network in float64. global_bound: proved; liplt: the one that includes LipLT, None where that does not
    help. solver: of local norms. side: what these must be at least. deployed: whether margins hold for the network as
    it is run, too, not only in real numbers. colorings: the groups of neurons whose intermediate bounds share a row.
    ascent: the last attempt at an objective. within: the pixel range that the specification is restricted to. slack:
    what bounds leave for the rounding of a checker. heads: the operators behind the logits of each output.
    """

    program: Program
    global_bound: GlobalBound
    solver: Solver
    side: Side
    deployed: bool
    colorings: Colorings
    within: PixelRange | None = None
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=60))
    slack: Slack = TIGHT
    specification: Specification = FIRST
    heads: tuple[tuple[Op, ...], ...] = ()
    liplt: ProvedLipLT | None = None

    def __call__(self, images: Tensor, references: Tensor, hint: ProofHint, radii: float | Tensor) -> Tensor:
        """The margins of `prove`, without evidence."""
        return self.prove(images, references, hint, radii).margins

    def prove(
        self,
        images: Tensor,
        references: Tensor,
        hint: ProofHint,
        radii: float | Tensor,
        *,
        evidence: bool = False,
    ) -> Proof:
        """Lower bounds of `z_y - z_j` over each ball, `[batch, logits]`; infinite for j = y. NaN proves nothing.

        images: `[batch, *input shape]`, pixel units. references: y, `[batch]`; where j is no rival of any of them, the
        bound is -inf. hint: which bounds to prove. radii: of the balls, of each image, `[batch]`, float64, or of all,
        exactly as they are; `llcert.certification.radii.above` pays for the rounding of what a user wrote. evidence:
        whether the evidence of margins is kept; then only margins that have evidence are above 0. Raises ValueError for
        evidence of a hint at LipLT: there is none.
        """
        if evidence and hint.liplt:
            raise ValueError("there is no evidence of LipLT")
        with torch.no_grad(), direct_sums():
            region, arithmetic = self._region(images, radii), self._arithmetic(hint)
            passed = partial(propagate, self.program, region, arithmetic, weighting=hint.weighting)
            regions = Regions(passed())
            if hint.intermediate and self.colorings.by_block:  # the second pass would be the first one else
                first, boxes = regions.trace, self._boxes(regions.trace)
                regions = Regions(passed(boxes={n: b.ends for n, b in boxes.items()}), boxes, first)
            self._check_side(regions.trace.side)
            margins, objectives = self._margins(regions.trace, references, hint, evidence=evidence)
            return Proof(self._told_apart(margins, references, regions.trace), regions, objectives)

    @property
    def softened(self) -> bool:
        """Whether margins must be large enough to survive a softmax behind the logits."""
        return self.deployed and any(rounding(head) not in (None, Sigmoid()) for head in self.heads)

    def _told_apart(self, margins: Tensor, references: Tensor, trace: Trace) -> Tensor:
        """The margins of which the network's heads keep the sign; -inf for the others."""
        logits, first = trace.post_activation[self.program.output].region, self.specification.spare == 0
        return told_apart(self.heads, margins, references, logits, first=first) if self.deployed else margins

    @cached_property
    def _backward(self) -> Backward:
        return Backward(self.program, clip=self.within is not None)

    def _bound(self, hint: ProofHint) -> GlobalBound:
        return self.liplt.global_bound if hint.liplt and self.liplt is not None else self.global_bound

    def _region(self, images: Tensor, radii: float | Tensor) -> Region:
        """The balls of the images, rounding of the input included."""
        form = self.program.input.rounding if self.deployed else None
        return enclosing_ball(images.to(torch.float64), radii, within=self.within, deployed=form)

    def _arithmetic(self, hint: ProofHint) -> VerifiedArithmetic:
        solver = CachingSolver(self.solver) if hint.local else None
        return VerifiedArithmetic(self._bound(hint), solver, self.deployed, self.slack)

    def _check_side(self, side: Side) -> None:
        """Raises ValueError where norms are weaker than what the assurance needs."""
        if side is not Side.UPPER and side is not self.side:
            raise ValueError(f"norms of side {side.value} do not support a claim that needs {self.side.value}")

    def _boxes(self, first: Trace) -> dict[Node, IntermediateBounds]:
        """Intermediate bounds by the backward pass over the regions of a forward pass."""
        roundoff, boxes = first.roundoff, intermediate_bounds(self._backward, first, self.colorings.by_block)
        assert roundoff is not None, "an estimate"
        return {n: replace(b, ends=self.slack.intermediate(b.ends, b.paid, roundoff[n].size)) for n, b in boxes.items()}

    def _margins(
        self, trace: Trace, references: Tensor, hint: ProofHint, *, evidence: bool
    ) -> tuple[Tensor, dict[Pair, ObjectiveEvidence]]:
        """Margins from the regions of the last hidden values, improved by attempts where they are not positive."""
        directions = differences(references, self.program)
        logits, classes = directions.shape[1], self.program.classes
        rivals = self.specification.others(logits, classes)
        stop = self._backward.at_last_hidden(trace, directions[:, rivals])
        margins = self.specification.on_all_logits(stop.lower, logits, classes)
        objectives: dict[Pair, ObjectiveEvidence] = {}
        if evidence:
            least, numbers = _LEAST * self._largest(trace), torch.arange(logits, device=margins.device)
            objectives = evidence_at_last_hidden(self._backward, trace, stop, numbers[rivals], least)
            margins = torch.where(margins > least[:, None], margins, margins.clamp(max=0))
        else:
            pairs = pairwise_margins(self.program, self._bound(hint), trace, references)
            margins[:, rivals] = torch.fmax(margins, pairs)[:, rivals]
        for attempt in self._attempts(hint):
            margins, found = self._improved(margins, attempt, trace, references, evidence=evidence)
            objectives |= found
        return margins.scatter(1, references[:, None], torch.inf), objectives

    def _attempts(self, hint: ProofHint) -> tuple[Attempt, ...]:
        """The attempts at objectives that are not positive at the last hidden values."""
        if not hint.backward:
            return ()
        if hint.cover is not None:
            return closed, partial(branched, hint.cover, self.ascent)
        estimated = () if hint.relaxation is None else (partial(repeated, hint.relaxation),)
        return closed, *estimated, partial(ascended, hint.relaxation, self.ascent)

    def _improved(
        self, margins: Tensor, attempt: Attempt, trace: Trace, references: Tensor, *, evidence: bool
    ) -> tuple[Tensor, dict[Pair, ObjectiveEvidence]]:
        """The margins after an attempt at the open ones, and the evidence of those that it proved, if that is kept."""
        backward, margins, kept = self._backward, margins.clone(), dict[Pair, ObjectiveEvidence]()
        directions, largest = differences(references, self.program), self._largest(trace)
        enough = _ENOUGH * largest if evidence else torch.zeros_like(largest)
        open_ = torch.nonzero(self.specification.open(margins, references, self.program.classes))
        for part in open_.split(backward.rows_at_once) if len(open_) else ():
            image, other = part.unbind(1)
            rows = directions[image, other][:, None]
            objectives = Objectives(trace.select(image), rows, image, other, enough[image])
            attempted = attempt(backward, objectives)
            bounds, where = attempted.bounds, (image[attempted.positions], other[attempted.positions])
            if evidence:
                bounds, found = with_evidence(backward, objectives, attempted, _LEAST * largest[image])
                kept |= found
            margins[where] = torch.fmax(margins[where], bounds)
        return margins, kept

    def _largest(self, trace: Trace) -> Tensor:
        """The size of the largest logit of each image, `[batch]`."""
        return flat(trace.pre_activation[self.program.output].centre.abs()).amax(1)
