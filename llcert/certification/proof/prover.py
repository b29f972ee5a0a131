"""The prover: lower bounds of margins in float64, with proved norms and every rounding paid for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from llcert.bounds import TIGHT, GlobalBound, Slack, Trace, VerifiedArithmetic, pairwise_margins, propagate
from llcert.bounds.backward.alpha import Ascent
from llcert.bounds.backward.crown import Backward, differences
from llcert.bounds.backward.intermediate import Colorings, IntermediateBounds, intermediate_bounds
from llcert.bounds.forward.outward import enclosing_ball
from llcert.certification.heads import rounding, told_apart
from llcert.certification.proof.attempts import Attempt, Objectives, ascended, branched, closed, repeated
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.record import ObjectiveProof, Pair, Proof, Regions, at_last, recorded
from llcert.certification.radii import Eps, Radii
from llcert.certification.specification import FIRST, Specification
from llcert.domain.pixel_range import PixelRange
from llcert.ir import Node, Op
from llcert.numerics.rounding import direct_sums
from llcert.numerics.tensors import flat
from llcert.ops import Sigmoid
from llcert.program import Program
from llcert.spectral import Remembered, Side, Solver

_LEAST = 1e-7
"""What a margin with evidence must exceed, of the largest logit: room for the arithmetic of whoever checks it."""

_ENOUGH = 1e-4
"""Above what an ascent need not go on where evidence is kept, of the largest logit: float32 costs less than that."""


@dataclass(frozen=True)
class Prover:
    """Lower bounds of margins that hold for the network as it is run, or as real numbers.

    program: in float64. bound: its proved norms. solver: of local norms. side: what they must be at least. eps: not
    below the radius that was asked. deployed: whether of the network as it is run too; else in real numbers alone.
    colorings: the rows of the program's intermediate bounds. ascent: the last attempt on objectives that the estimate
    certified. within: the range of pixels that a claim is restricted to. slack: room for a checker. specification:
    whose margins count. heads: of the network, behind its logits. liplt: the bound with LipLT in it, costly, made when
    asked.
    """

    program: Program
    bound: GlobalBound
    solver: Solver
    eps: Eps
    side: Side
    deployed: bool
    colorings: Colorings
    within: PixelRange | None = None
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=60))
    slack: Slack = TIGHT
    specification: Specification = FIRST
    heads: tuple[tuple[Op, ...], ...] = ()
    liplt: Callable[[], GlobalBound] | None = None

    def __call__(self, images: Tensor, references: Tensor, hint: ProofHint, eps: Tensor | None = None) -> Tensor:
        """The margins of `prove`, without evidence."""
        return self.prove(images, references, hint, eps).margins

    def prove(
        self,
        images: Tensor,
        references: Tensor,
        hint: ProofHint,
        eps: Tensor | None = None,
        *,
        evidence: bool = False,
    ) -> Proof:
        """Lower bounds of `z_y - z_j` over each ball, `[batch, logits]`; infinite for j = y. NaN proves nothing.

        images: `[batch, *input shape]`, pixel units. references: y, `[batch]`; where j is no rival of any, the bound is
        -inf. eps: a radius for each image, `[batch]`, in place of the prover's one for all. evidence: whether how
        margins were proved is kept; only margins of which it is are above 0 then. Raises ValueError for a hint at LipLT
        with evidence, of which there is none.
        """
        if evidence and hint.liplt:
            raise ValueError("there is no evidence of LipLT")
        with torch.no_grad(), direct_sums():
            regions = self._regions(images.to(torch.float64), hint, eps)
            margins, objectives = self._margins(regions.trace, references, hint, evidence=evidence)
            return Proof(self._told_apart(margins, references, regions.trace), regions, objectives)

    @property
    def softened(self) -> bool:
        """Whether a proof has to pay for a softmax behind the logits."""
        kinds = [rounding(head) for head in self.heads]
        return self.deployed and any(op is not None and not isinstance(op, Sigmoid) for op in kinds)

    def _told_apart(self, margins: Tensor, references: Tensor, trace: Trace) -> Tensor:
        """The margins that count behind the network's heads."""
        logits, first = trace.post_activation[self.program.output].region, self.specification.spare == 0
        return told_apart(self.heads, margins, references, logits, first=first) if self.deployed else margins

    def _backward(self) -> Backward:
        return Backward(self.program, clip=self.within is not None)

    def _bound(self, hint: ProofHint) -> GlobalBound:
        return self.liplt() if hint.liplt and self.liplt is not None else self.bound

    def _regions(self, images: Tensor, hint: ProofHint, eps: Tensor | None) -> Regions:
        if eps is None:
            if isinstance(self.eps, Radii):
                raise ValueError("each image has its own radius; say which")
            eps = torch.full((len(images),), self.eps, dtype=torch.float64, device=images.device)
        form = self.program.input.rounding if self.deployed else None
        region = enclosing_ball(images, eps, within=self.within, deployed=form)
        solver = Remembered(self.solver) if hint.local else None
        arithmetic = VerifiedArithmetic(self._bound(hint), solver, self.deployed, self.slack)
        passed = partial(propagate, self.program, region, arithmetic, weighting=hint.weighting)
        regions = Regions(passed())
        if hint.intermediate:
            first, boxes = regions.trace, self._boxes(regions.trace)
            regions = Regions(passed(boxes={n: b.ends for n, b in boxes.items()}), boxes, first)
        side = regions.trace.side
        if side is not Side.UPPER and side is not self.side:
            raise ValueError(f"norms of side {side.value} do not support a claim that needs {self.side.value}")
        return regions

    def _boxes(self, first: Trace) -> dict[Node, IntermediateBounds]:
        """Intermediate bounds by the backward pass over the regions of a forward pass."""
        known, boxes = first.roundoff, intermediate_bounds(self._backward(), first, self.colorings.by_block)
        assert known is not None, "an estimate"
        return {n: replace(b, ends=self.slack.intermediate(b.ends, b.paid, known[n].size)) for n, b in boxes.items()}

    def _margins(
        self, trace: Trace, references: Tensor, hint: ProofHint, *, evidence: bool
    ) -> tuple[Tensor, dict[Pair, ObjectiveProof]]:
        """Margins at the last hidden values; of those that do not suffice there, by what the hint has to offer."""
        backward = self._backward()
        directions = differences(references, self.program)
        others = self.specification.others(directions.shape[1], self.program.classes)
        margins = torch.full_like(directions[:, 0], -torch.inf)
        stop = backward.at_last_hidden(trace, directions[:, others])
        margins[:, others] = stop.lower
        objectives: dict[Pair, ObjectiveProof] = {}
        if evidence:
            least, classes = _LEAST * self._largest(trace), torch.arange(margins.shape[1], device=margins.device)
            objectives = at_last(backward, trace, stop, classes[others], least)
            margins = torch.where(margins > least[:, None], margins, margins.clamp(max=0))
        else:
            pairs = pairwise_margins(self.program, self._bound(hint), trace, references)
            margins[:, others] = torch.fmax(margins, pairs)[:, others]
        for attempt in self._attempts(hint):
            margins, found = self._improved(margins, attempt, trace, references, evidence=evidence)
            objectives |= found
        return margins.scatter(1, references[:, None], torch.inf), objectives

    def _attempts(self, hint: ProofHint) -> tuple[Attempt, ...]:
        """The attempts at objectives that do not suffice at the last hidden values."""
        if not hint.backward:
            return ()
        if hint.cover is not None:
            return closed, partial(branched, hint.cover, self.ascent)
        known = () if hint.relaxation is None else (partial(repeated, hint.relaxation),)
        return closed, *known, partial(ascended, hint.relaxation, self.ascent)

    def _improved(
        self, margins: Tensor, attempt: Attempt, trace: Trace, references: Tensor, *, evidence: bool
    ) -> tuple[Tensor, dict[Pair, ObjectiveProof]]:
        """The margins after an attempt at those that are open, and how it proved some where evidence is kept."""
        backward, margins, kept = self._backward(), margins.clone(), dict[Pair, ObjectiveProof]()
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
                bounds, found = recorded(backward, objectives, attempted, _LEAST * largest[image])
                kept |= found
            margins[where] = torch.fmax(margins[where], bounds)
        return margins, kept

    def _largest(self, trace: Trace) -> Tensor:
        """The size of the largest logit of each image, `[batch]`."""
        return flat(trace.pre_activation[self.program.output].centre.abs()).amax(1)
