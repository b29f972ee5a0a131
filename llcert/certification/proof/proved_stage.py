"""A stage whose certificates are proved before they count (docs/method.md, section 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.proof.evidence import KeptProof
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.radii import above
from llcert.certification.specification import positive
from llcert.certification.verdict import Assurance, CertifyingStage, Finding, Verdict


@dataclass(frozen=True)
class ProvedStage:
    """Runs a stage, then proves what it certified; what is not proved stays undecided.

    stage: whose certificates are estimates. prover, assurance: what backs what is decided. weaker: provers of weaker
    assurances, tried where it fails, so that a report can say what they would have certified. evidence: whether proofs
    are returned with their evidence; hints at LipLT, of which there is none, are passed over then.
    """

    stage: CertifyingStage
    prover: Prover
    assurance: Assurance
    weaker: Mapping[Assurance, Prover]
    evidence: bool = False

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def verdict(self) -> Verdict:
        return self.stage.verdict

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        """Raises ValueError for a hint that the stage does not declare: its norms would count in no probability."""
        finding = self.stage(batch, so_far)
        possible = self.stage.possible_hints
        if any(hint not in possible for hint in finding.hints) or len(finding.hints) > len(possible):
            raise ValueError(f"the stage {self.name} leaves hints that it does not declare")
        assert finding.margin is not None
        margin = finding.margin.double()
        candidates = torch.nonzero(finding.decided)[:, 0]
        margin[candidates], proofs = _best(self.prover, finding.hints, batch, candidates, evidence=self.evidence)
        decided = finding.decided & positive(margin)
        weaker = {Assurance.ESTIMATE: finding.decided}
        for assurance, prover in self.weaker.items():
            left = torch.nonzero(finding.decided & ~decided)[:, 0]
            weaker[assurance] = decided.clone()
            found, _ = _best(prover, finding.hints, batch, left)
            weaker[assurance][left] = positive(found)
        return replace(finding, decided=decided, margin=margin, assurance=self.assurance, weaker=weaker, proofs=proofs)


def _best(
    prover: Prover, hints: Sequence[ProofHint], batch: Batch, positions: Tensor, *, evidence: bool = False
) -> tuple[Tensor, tuple[KeptProof, ...]]:
    """The best proved margin of each of some images, `[positions]`, and the proofs of those that are positive.

    Hints are followed in turn for the images that are still open. evidence: whether proofs are kept.
    """
    best = torch.full((len(positions),), -torch.inf, dtype=torch.float64, device=positions.device)
    kept: list[KeptProof] = []
    for hint in hints:
        still = torch.nonzero(~positive(best))[:, 0]
        if len(still) == 0:
            break
        if hint.liplt and (evidence or prover.liplt is None):
            continue  # no evidence; or no other bound than without LipLT
        chosen = batch.select(positions[still])
        some = hint.select(positions[still])
        proof = prover.prove(chosen.images, chosen.references, some, above(chosen.radii), evidence=evidence)
        margin = prover.specification.margin(proof.margins, chosen.references, prover.program.classes)
        best[still] = torch.fmax(best[still], margin)
        if evidence:
            proved = torch.nonzero(positive(margin))[:, 0]
            kept.append(
                KeptProof(chosen.indices[proved], chosen.references[proved], margin[proved], proof.select(proved))
            )
    return best, tuple(kept)
