"""The dual stage: rows on the logits carried back to the image, where the last hidden values do not decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.ascent import Ascent
from llcert.bounds.dual import Backward, Choice, Key, Tightest, differences
from llcert.certify.claim import positive
from llcert.certify.plan import Carried, Plan
from llcert.certify.stages import Local
from llcert.certify.verdict import Finding, Verdict


@dataclass(frozen=True)
class Dual:
    """Certifies by the backward pass (METHOD, section 7): in closed form, then by ascent for the classes still open.

    boxes: whether the boxes come from the backward pass too, and masks and norms from those; where no block's boxes can
    be asked for, such a stage decides nothing.
    """

    local: Local
    ascent: Ascent = field(default_factory=Ascent)
    boxes: bool = False
    name: str = "dual"
    verdict: Verdict = Verdict.CERTIFIED

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor) -> Finding:
        if self.boxes and not self.local.probes:
            return Finding(
                torch.zeros_like(labels, dtype=torch.bool), torch.full_like(labels, torch.nan, dtype=images.dtype)
            )
        trace = self.local.refined(images, indices) if self.boxes else self.local.masked(images, indices)
        program = self.local.program
        backward = Backward(program, self.local.clip_input)
        claim, directions = self.local.claim, differences(labels, program)
        others = claim.others(directions.shape[1], program.classes)
        margins = torch.full_like(directions[:, 0], -torch.inf)
        margins[:, others] = self._closed(backward, trace, directions[:, others])
        image, row = torch.nonzero(claim.open(margins, labels, program.classes), as_tuple=True)
        carried = None
        if len(image):
            better, choices = self._ascended(backward, trace, directions, image, row)
            margins[image, row] = torch.fmax(margins[image, row], better)
            carried = Carried(image, row, choices)
        margin = claim.margin(margins, labels, program.classes)
        plan = Plan(local=True, boxes=self.boxes, backward=True, carried=carried)
        return Finding(positive(margin), margin, plans=(plan,))

    def _closed(self, backward: Backward, trace: Trace, directions: Tensor) -> Tensor:
        """Margins of every class with the tightest slopes, the best stop of each."""
        parts = []
        for images in _chunks(backward, torch.arange(len(directions), device=directions.device), directions.shape[1]):
            rows = {backward.program.output: directions[images]}
            parts.append(backward(trace.select(images), rows, Tightest(), stops=True))
        return torch.cat(parts)

    def _ascended(
        self, backward: Backward, trace: Trace, directions: Tensor, image: Tensor, row: Tensor
    ) -> tuple[Tensor, dict[Key, Choice]]:
        """Margins of some rows after an ascent, `[rows]`, and its choices."""
        bounds, choices = [], []
        for part in _chunks(backward, torch.arange(len(image), device=image.device), 1):
            own = trace.select(image[part])
            rows = {backward.program.output: directions[image[part], row[part]][:, None]}
            start = Tightest()
            backward(own, rows, start)
            bound, chosen = self.ascent(backward, own, rows, start.chosen)
            bounds.append(bound[:, 0])
            choices.append(chosen)
        return torch.cat(bounds), {k: _joined([c[k] for c in choices]) for k in choices[0]}


def _joined(choices: Sequence[Choice]) -> Choice:
    return Choice(torch.cat([c.slopes for c in choices]), torch.cat([c.lam for c in choices]))


def _chunks(backward: Backward, positions: Tensor, rows: int) -> tuple[Tensor, ...]:
    """The positions in parts that fit the memory. rows: of each."""
    return positions.split(max(backward.rows_at_once // rows, 1))
