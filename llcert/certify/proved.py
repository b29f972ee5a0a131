"""A stage whose certificates are proved before they count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from llcert.certify.batch import Batch, Known
from llcert.certify.explained import Witness
from llcert.certify.proof_hint import ProofHint
from llcert.certify.prover import Prover
from llcert.certify.radii import radii_of
from llcert.certify.specification import positive
from llcert.certify.verdict import Assurance, Finding, Stage, Verdict


@dataclass(frozen=True)
class Proved:
    """Runs a stage, then proves what it certified; what is not proved stays undecided.

    stage: one that certifies, an estimate. prover, assurance: what backs what is decided. weaker: provers of weaker
    assurances, tried where it fails, so that a report can say what they would have certified. witness: of the proofs.
    """

    stage: Stage
    prover: Prover
    assurance: Assurance
    weaker: Mapping[Assurance, Prover]
    witness: Witness | None = None

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def verdict(self) -> Verdict:
        return self.stage.verdict

    def __call__(self, batch: Batch, known: Known) -> Finding:
        images, labels, indices = batch.images, batch.references, batch.indices
        finding = self.stage(batch, known)
        assert finding.margin is not None
        margin = finding.margin.double()
        candidates = torch.nonzero(finding.decided)[:, 0]
        margin[candidates] = self._best(finding, candidates, images, labels, indices)
        decided = finding.decided & positive(margin)
        others = {Assurance.ESTIMATE: finding.decided}
        for assurance, prover in self.weaker.items():
            left = torch.nonzero(finding.decided & ~decided)[:, 0]
            others[assurance] = decided.clone()
            found = _best(finding, left, partial(_margins, prover, images, labels, indices))
            others[assurance][left] = positive(found)
        return replace(finding, decided=decided, margin=margin, assurance=self.assurance, weaker=others)

    def _best(self, finding: Finding, positions: Tensor, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The best margins of the prover itself; tells the witness of its proofs."""

        def margins(hint: ProofHint, chosen: Tensor) -> Tensor:
            if not self.prover.knows(hint):
                return torch.full((len(chosen),), -torch.inf, dtype=torch.float64, device=chosen.device)
            if self.witness is None:
                return _margins(self.prover, images, labels, indices, hint, chosen)
            radii = radii_of(self.prover.eps, indices[chosen])
            proof = self.prover.explained(images[chosen], labels[chosen], hint, radii)
            self.witness.keep(proof, labels[chosen], indices[chosen])
            return proof.margin

        return _best(finding, positions, margins)


def _margins(
    prover: Prover, images: Tensor, labels: Tensor, indices: Tensor, hint: ProofHint, chosen: Tensor
) -> Tensor:
    bounds = prover(images[chosen], labels[chosen], hint, radii_of(prover.eps, indices[chosen]))
    return prover.specification.margin(bounds, labels[chosen], prover.program.classes)


def _best(finding: Finding, positions: Tensor, margins: Callable[[ProofHint, Tensor], Tensor]) -> Tensor:
    """The best proved margin of each of these images; plans are tried in turn on those that are still open."""
    best = torch.full((len(positions),), -torch.inf, dtype=torch.float64, device=positions.device)
    for hint in finding.hints:
        still = torch.nonzero(~positive(best))[:, 0]
        if len(still) == 0:
            break
        chosen = positions[still]
        found = margins(hint.select(chosen), chosen)
        best[still] = torch.fmax(best[still], found)
    return best
