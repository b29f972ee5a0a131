"""The stage `global`: margins against global Lipschitz constants (docs/method.md, sections 5, 6 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.estimator import Estimator
from llcert.certification.proof.hint import ProofHint
from llcert.certification.specification import positive
from llcert.certification.verdict import Finding, Verdict
from llcert.numerics.tensors import flat, length, spread
from llcert.program import Term


@dataclass(frozen=True)
class Global:
    """Certifies by the global Lipschitz bound: `z_y - z_j > ||w_j - w_y|| L eps` for every other class (GloRo).

    Or `z_y - z_j > L_yj eps`, the constant of the pair by LipLT.
    """

    estimator: Estimator
    name: str = "global"
    verdict: Verdict = Verdict.CERTIFIED

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        return (
            ProofHint(local=False),
            ProofHint(local=False, liplt=True),
            ProofHint(local=False, backward=True),
        )

    @cached_property
    def distances(self) -> dict[Term, Tensor]:
        """`||w_j - w_y||` in the last layer, `[label, classes]`, for each of its terms."""
        found = {}
        for term, rows in self.estimator.last.rows.items():
            every = flat(rows)
            found[term] = torch.stack([length(every - row) for row in every])
        return found

    def increases(self, references: Tensor, radii: Tensor) -> Tensor:
        """Upper bounds on how much `z_j - z_y` can grow, `[batch, classes]`. references: y; radii: pixel units."""
        program, bound = self.estimator.program, self.estimator.global_bound
        total = torch.zeros((), dtype=program.dtype, device=program.device)
        for term, distances in self.distances.items():
            moved = (bound.lipschitz[term.source] * radii).to(distances.dtype)
            total = total + distances[references] * spread(moved, distances)
        if bound.pairs is None:
            return total
        return torch.minimum(total, bound.pairs[references] * radii[:, None].to(total.dtype))

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        program, references = self.estimator.program, batch.references
        logits = program.logits(batch.images)
        bounds = logits.gather(1, references[:, None]) - logits - self.increases(references, batch.radii)
        margin = self.estimator.specification.margin(bounds, references, program.classes)
        return Finding(positive(margin), margin, hints=self.possible_hints, so_far=so_far.improved(bounds))
