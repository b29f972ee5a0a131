"""The stages that bound objectives by backward passes over boxes and balls (docs/method.md, sections 9 and 10)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.alpha import Ascent, enough_to_prove
from llcert.bounds.backward.choices import tightest
from llcert.bounds.backward.crown import differences
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.estimator import Estimator
from llcert.certification.proof.hint import FixedRelaxation, ProofHint
from llcert.certification.specification import positive
from llcert.certification.verdict import Finding, Verdict


@dataclass(frozen=True)
class CrownBall:
    """Certifies by linear bounds on box *and* ball: in closed form, then optimised for the classes still open.

    intermediate: whether pre-activation bounds come from backward passes, too, and masks and norms from these; where no
    block has such bounds, this stage decides nothing.
    """

    estimator: Estimator
    ascent: Ascent = field(default_factory=Ascent)
    intermediate: bool = False
    verdict: Verdict = Verdict.CERTIFIED

    @property
    def name(self) -> str:
        return "crown-ball-intermediate" if self.intermediate else "crown-ball"

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        return (ProofHint(local=True, intermediate=self.intermediate, backward=True),)

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        program, specification, references = self.estimator.program, self.estimator.specification, batch.references
        if self.intermediate and not self.estimator.colorings.by_block:
            nothing = torch.zeros_like(references, dtype=torch.bool)
            return Finding(nothing, torch.full_like(references, torch.nan, dtype=program.dtype))
        forward = self.estimator.refined if self.intermediate else self.estimator.masked
        trace, so_far = forward(batch, so_far)
        margins = self.estimator.closed(trace, references)
        open_ = specification.open(margins, references, program.classes)
        worst = _worst(open_, margins)
        first = self._ascended(trace, references, worst, margins)
        hopeful = positive(margins.gather(1, worst.long().argmax(1, keepdim=True)))
        rest = self._ascended(trace, references, open_ & ~worst & hopeful, margins)
        margin = specification.margin(margins, references, program.classes)
        (hint,) = self.possible_hints
        hint = replace(hint, relaxation=FixedRelaxation.joined([*first, *rest]))
        return Finding(positive(margin), margin, hints=(hint,), so_far=so_far.improved(margins))

    def _ascended(self, trace: Trace, references: Tensor, some: Tensor, margins: Tensor) -> list[FixedRelaxation]:
        """Raises some margins, boolean `[batch, logits]`, in place by an ascent; the relaxations that it chose."""
        found, backward = [], self.estimator.backward
        directions = differences(references, self.estimator.program)
        image, row = torch.nonzero(some, as_tuple=True)
        every = torch.arange(len(image), device=image.device)
        for part in every.split(backward.rows_at_once) if len(image) else ():
            i, j = image[part], row[part]
            traces = trace.select(i)
            rows = {backward.program.output: directions[i, j][:, None]}
            start = backward(traces, rows, tightest).linear.choices
            bound, choices = self.ascent(backward, traces, rows, start, enough_to_prove(backward.program, traces))
            margins[i, j] = torch.fmax(margins[i, j], bound[:, 0])
            found.append(FixedRelaxation(i, j, choices))
        return found


def _worst(open_: Tensor, margins: Tensor) -> Tensor:
    """The open margin of each image that is the farthest below zero, boolean `[batch, logits]`: where it stays open,
    the others need not be raised."""
    ranked = torch.where(open_, margins.nan_to_num(-torch.inf), torch.inf)
    return torch.zeros_like(open_).scatter(1, ranked.argmin(1, keepdim=True), True) & open_
