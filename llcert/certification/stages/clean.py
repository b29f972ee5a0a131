"""The stage `clean`, always the first: the specification at the image itself (docs/method.md, section 13)."""

from __future__ import annotations

from dataclasses import dataclass

from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.specification import FIRST, Specification
from llcert.certification.verdict import Finding, Verdict
from llcert.program import Program


@dataclass(frozen=True)
class Clean:
    """Decides the images at which the specification is false already: misclassified."""

    program: Program
    specification: Specification = FIRST
    name: str = "clean"
    verdict: Verdict = Verdict.MISCLASSIFIED

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        logits = self.program.logits(batch.images)
        return Finding(~self.specification.holds(logits, batch.labels, self.program.classes))
