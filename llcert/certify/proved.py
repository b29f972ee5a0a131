"""A stage whose certificates are proved before they count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.certify.prover import Prover
from llcert.certify.stages import positive
from llcert.certify.verdict import Assurance, Finding, Stage, Verdict


@dataclass(frozen=True)
class Proved:
    """Runs a stage, then proves what it certified; what is not proved stays undecided.

    stage: one that certifies, an estimate. prover, assurance: what backs what is decided. weaker: provers of weaker
    assurances, tried where it fails, so that a report can say what they would have certified.
    """

    stage: Stage
    prover: Prover
    assurance: Assurance
    weaker: Mapping[Assurance, Prover]

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def verdict(self) -> Verdict:
        return self.stage.verdict

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor) -> Finding:
        finding = self.stage(images, labels, indices)
        assert finding.margin is not None
        margin = finding.margin.double()
        candidates = torch.nonzero(finding.decided)[:, 0]
        margin[candidates] = _best(self.prover, finding, candidates, images, labels)
        decided = finding.decided & positive(margin)
        others = {Assurance.ESTIMATE: finding.decided}
        for assurance, prover in self.weaker.items():
            left = torch.nonzero(finding.decided & ~decided)[:, 0]
            others[assurance] = decided.clone()
            others[assurance][left] = positive(_best(prover, finding, left, images, labels))
        return replace(finding, decided=decided, margin=margin, assurance=self.assurance, weaker=others)


def _best(prover: Prover, finding: Finding, positions: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """The best proved margin of each of these images; plans are tried in turn on those that are still open."""
    best = torch.full((len(positions),), -torch.inf, dtype=torch.float64, device=images.device)
    for plan in finding.plans:
        still = torch.nonzero(~positive(best))[:, 0]
        if len(still) == 0:
            break
        chosen = positions[still]
        found = prover(images[chosen], labels[chosen], plan.select(chosen)).amin(1)
        best[still] = torch.fmax(best[still], found)
    return best
