"""The stage `branch`: the set of an image that stays open is cut into parts, each with a bound of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.branching import Branching, Leaves
from llcert.bounds.backward.crown import Backward, differences
from llcert.certification.batch import Batch, Known
from llcert.certification.proof.hint import BranchCover, ProofHint
from llcert.certification.specification import positive
from llcert.certification.stages.local import Local
from llcert.certification.verdict import Finding, Verdict


@dataclass(frozen=True)
class Branch:
    """Certifies by branch and bound, one image after the other, within a budget of time for each.

    How far it gets depends on the speed of the machine, so this stage alone may decide differently on another.
    """

    local: Local
    branching: Branching = field(default_factory=Branching)
    name: str = "branch"
    verdict: Verdict = Verdict.CERTIFIED

    def __call__(self, batch: Batch, known: Known) -> Finding:
        trace, _ = self.local.refined(batch, known.traces)
        backward, device = self.local.backward(), batch.images.device
        margins = torch.full((len(batch),), torch.nan, dtype=self.local.program.dtype, device=device)
        found: list[tuple[Tensor, Tensor, Leaves]] = []
        for position in range(len(batch)):
            here = torch.tensor([position], device=device)
            classes, leaves, margin = self._image(backward, trace.select(here), batch.references[here])
            margins[position] = margin
            if leaves is not None:
                found.append((here.expand(len(classes)), classes, leaves))
        hint = ProofHint(local=True, intermediate=True, backward=True, cover=_together(found) if found else None)
        return Finding(positive(margins), margins, hints=(hint,))

    def _image(self, backward: Backward, trace: Trace, labels: Tensor) -> tuple[Tensor, Leaves | None, Tensor]:
        """The classes that the closed form hardly proves, parts of the ball for them, and the margin over all."""
        program, specification = self.local.program, self.local.specification
        directions = differences(labels, program)
        others = specification.others(directions.shape[1], program.classes)
        bounds = torch.full_like(directions[:, 0], -torch.inf)
        bounds[:, others] = backward.closed_form(trace, directions[:, others])
        enough = self.branching.enough(backward, trace)
        classes = torch.nonzero(specification.open(bounds - enough, labels, program.classes)[0])[:, 0]
        if len(classes) == 0:
            return classes, None, specification.margin(bounds, labels, program.classes)[0]
        leaves = self.branching(backward, trace, directions[0, classes])
        worst = torch.stack([leaves.bounds[leaves.rows == r].amin() for r in range(len(classes))])
        done = (
            3 * worst > enough
        )  # a third of the reserve mostly pays for a proof, too, where there was no time for more
        bounds[0, classes] = torch.fmax(bounds[0, classes], torch.where(done, worst, worst.clamp(max=0)))
        return classes, leaves, specification.margin(bounds, labels, program.classes)[0]


def _together(found: list[tuple[Tensor, Tensor, Leaves]]) -> BranchCover:
    """The rows of all images in one."""
    shifted, count = [], 0
    for images, _, leaves in found:
        shifted.append(Leaves(leaves.rows + count, leaves.bounds, leaves.cuts, leaves.choices))
        count += len(images)
    return BranchCover(torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]), Leaves.joined(shifted))
