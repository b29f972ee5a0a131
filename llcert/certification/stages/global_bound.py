"""The stage `global`: margins against global Lipschitz constants (docs/method.md, sections 5, 6 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds import GlobalBound, LastLayer
from llcert.certification.batch import Batch, Known
from llcert.certification.proof.hint import ProofHint
from llcert.certification.specification import FIRST, Specification, positive
from llcert.certification.verdict import Finding, Verdict
from llcert.numerics.tensors import flat, length, spread
from llcert.program import Program, Term


@dataclass(frozen=True)
class Global:
    """Certifies by the global Lipschitz bound: `z_y - z_j > ||w_j - w_y|| L eps` for every other class (GloRo).

    Or `z_y - z_j > L_yj eps`, the constant of the pair by LipLT.
    """

    program: Program
    bound: GlobalBound
    specification: Specification = FIRST
    name: str = "global"
    verdict: Verdict = Verdict.CERTIFIED

    @cached_property
    def distances(self) -> dict[Term, Tensor]:
        """`||w_j - w_y||` in the last layer, `[label, classes]`, for each of its terms."""
        found = {}
        for term, rows in LastLayer.of(self.program).rows.items():
            every = flat(rows)
            found[term] = torch.stack([length(every - row) for row in every])
        return found

    def increases(self, references: Tensor, radii: Tensor) -> Tensor:
        """Upper bounds on how much `z_j - z_y` can grow, `[batch, classes]`. references: y; radii: pixel units."""
        total = torch.zeros((), dtype=self.program.dtype, device=self.program.device)
        for term, distances in self.distances.items():
            moved = (self.bound.lipschitz[term.source] * radii).to(distances.dtype)
            total = total + distances[references] * spread(moved, distances)
        if self.bound.pairs is None:
            return total
        return torch.minimum(total, self.bound.pairs[references] * radii[:, None].to(total.dtype))

    def __call__(self, batch: Batch, known: Known) -> Finding:
        logits, references = self.program.logits(batch.images), batch.references
        bounds = logits.gather(1, references[:, None]) - logits - self.increases(references, batch.radii)
        margin = self.specification.margin(bounds, references, self.program.classes)
        liplt = (ProofHint(local=False, liplt=True),) if self.bound.pairs is not None else ()
        hints = ProofHint(local=False), *liplt, ProofHint(local=False, backward=True)
        return Finding(positive(margin), margin, bounds=bounds, hints=hints)
