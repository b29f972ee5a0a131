"""The stage `branch`: the ball of an image that stays open is cut into parts, each with a bound of its own
(docs/method.md, section 11).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.branch_and_bound import BranchAndBound, Leaves
from llcert.bounds.backward.crown import differences
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.estimator import Estimator
from llcert.certification.proof.hint import BranchCover, ProofHint
from llcert.certification.specification import positive
from llcert.certification.verdict import Finding, Verdict


@dataclass(frozen=True)
class Branch:
    """Certifies by branch and bound, one image after the other, within a budget of time for each.

    How far it gets depends on the speed of the machine, so this stage alone may decide differently on another.
    """

    estimator: Estimator
    search: BranchAndBound = field(default_factory=BranchAndBound)
    name: str = "branch"
    verdict: Verdict = Verdict.CERTIFIED

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        return (ProofHint(local=True, intermediate=True, backward=True),)

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        trace, _ = self.estimator.refined(batch, so_far)
        device = batch.images.device
        margins = torch.full((len(batch),), torch.nan, dtype=self.estimator.program.dtype, device=device)
        found: list[tuple[Tensor, Tensor, Leaves]] = []
        for position in range(len(batch)):
            here = torch.tensor([position], device=device)
            classes, leaves, margin = self._image(trace.select(here), batch.references[here])
            margins[position] = margin
            if leaves is not None:
                found.append((here.expand(len(classes)), classes, leaves))
        (hint,) = self.possible_hints
        return Finding(positive(margins), margins, hints=(replace(hint, cover=_together(found) if found else None),))

    def _image(self, trace: Trace, references: Tensor) -> tuple[Tensor, Leaves | None, Tensor]:
        """The rivals whose bound in closed form is too small for a proof, parts of the ball that bound these, and the
        deciding margin of the image."""
        program, specification = self.estimator.program, self.estimator.specification
        backward, bounds = self.estimator.backward, self.estimator.closed(trace, references)
        enough = self.search.enough(backward, trace)
        classes = torch.nonzero(specification.open(bounds - enough, references, program.classes)[0])[:, 0]
        if len(classes) == 0:
            return classes, None, specification.margin(bounds, references, program.classes)[0]
        leaves = self.search(backward, trace, differences(references, program)[0, classes])
        worst = torch.stack([leaves.bounds[leaves.rows == r].amin() for r in range(len(classes))])
        # where time ran out: a third of what is asked for mostly suffices for a proof, too
        done = 3 * worst > enough
        bounds[0, classes] = torch.fmax(bounds[0, classes], torch.where(done, worst, worst.clamp(max=0)))
        return classes, leaves, specification.margin(bounds, references, program.classes)[0]


def _together(found: list[tuple[Tensor, Tensor, Leaves]]) -> BranchCover:
    """The branch covers of all images as one, their objectives numbered one after the other."""
    shifted, count = [], 0
    for images, _, leaves in found:
        shifted.append(Leaves(leaves.rows + count, leaves.bounds, leaves.splits, leaves.choices))
        count += len(images)
    return BranchCover(torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]), Leaves.joined(shifted))
