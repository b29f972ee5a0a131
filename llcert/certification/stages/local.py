"""The stage `local`: margins over the regions of each image's own forward pass (docs/method.md, sections 4, 5, 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds import RowWeighting, Trace, worst_margins
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.estimator import Estimator
from llcert.certification.proof.hint import ProofHint
from llcert.certification.specification import positive
from llcert.certification.verdict import Finding, LayerMeasure, Verdict
from llcert.numerics.tensors import flat
from llcert.program import Program


@dataclass(frozen=True)
class Local:
    """Certifies by the local Lipschitz bound: slope weights first (eq. 6), secant weights for what stays open."""

    estimator: Estimator
    name: str = "local"
    verdict: Verdict = Verdict.CERTIFIED

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        return (
            ProofHint(local=True),
            ProofHint(local=True, backward=True),
            ProofHint(local=True, weighting=RowWeighting.SECANT),
        )

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        logits = self.estimator.program.logits(batch.images)
        masked, so_far = self.estimator.masked(batch, so_far)
        bounds = worst_margins(logits, batch.references, self.estimator.last, masked.post_activation)
        margin, growth = self._margin(bounds, batch), self._growth(masked, batch)
        still = torch.nonzero(~positive(margin))[:, 0]
        if len(still):
            left = batch.select(still)
            sharper = self.estimator.trace(left, RowWeighting.SECANT, before=masked.select(still))
            better = worst_margins(logits[still], left.references, self.estimator.last, sharper.post_activation)
            margin[still] = torch.fmax(margin[still], self._margin(better, left))
            bounds[still] = torch.fmax(bounds[still], better)
            growth[still] = torch.fmin(growth[still], self._growth(sharper, left))
        return Finding(
            positive(margin),
            margin,
            masked.logit_lipschitz,
            growth,
            _layers(self.estimator.program, masked),
            hints=self.possible_hints,
            so_far=so_far.improved(bounds),
        )

    def _margin(self, bounds: Tensor, batch: Batch) -> Tensor:
        return self.estimator.specification.margin(bounds, batch.references, self.estimator.program.classes)

    def _growth(self, trace: Trace, batch: Batch) -> Tensor:
        """Radius of the values that the last linear map acts on, over the ball's, `[images]`; NaN for radius 0."""
        radii = torch.stack([trace.post_activation[t.source].region.radius for t in self.estimator.last.rows])
        grown = torch.linalg.vector_norm(radii, dim=0) / batch.radii.to(radii.dtype)
        return torch.where(batch.radii > 0, grown, torch.nan)


def _layers(program: Program, trace: Trace) -> tuple[LayerMeasure, ...]:
    """The norm of every term, its iterations, and the share of varying outputs of its block."""
    measures = []
    for block in program.blocks:
        varying = flat(trace.post_activation[block.node].varying).float().mean(1)
        for term in block.terms:
            norm = trace.norms[term]
            measures.append(LayerMeasure(norm.value, norm.iterations, varying))
    return tuple(measures)
