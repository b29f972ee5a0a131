"""The stages that look for counterexamples: one path before the costly bounds, one to every open rival after them
(docs/method.md, section 15).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.certification.attack import PGD, Attacked, Target
from llcert.certification.batch import Batch, Known
from llcert.certification.perturbations import Perturbations
from llcert.certification.targeted import Targeted
from llcert.certification.verdict import Finding, Verdict
from llcert.domain.pixel_range import UNIT, PixelRange
from llcert.numerics.tensors import flat


@dataclass(frozen=True)
class Adversary:
    """What is to be refuted, and by which points.

    pixels: what a pixel may be. restricted: whether the claim is about points in that range alone, not whole balls.
    """

    target: Target
    pixels: PixelRange = UNIT
    restricted: bool = False

    def likely(self, batch: Batch) -> Perturbations:
        """The points of each ball that are pictures: in the pixel range, if the image is."""
        if self.restricted:
            return self.allowed(batch)
        return Perturbations.natural(batch.images, batch.radii, self.target.program.dtype, self.pixels)

    def allowed(self, batch: Batch) -> Perturbations:
        """All points that the specification is about."""
        dtype = self.target.program.dtype
        if self.restricted:
            return Perturbations.clipped(batch.images, batch.radii, dtype, self.pixels)
        return Perturbations.whole(batch.images, batch.radii, dtype)

    def finding(self, reached: Attacked) -> Finding:
        """What an attack has reached, as a stage says it."""
        pictures = self.pixels.holds(reached.points) | self.restricted  # at an end, the format may round out of it
        return Finding(reached.refuted, counterexample=reached.points, in_range=pictures)


@dataclass(frozen=True)
class Attack:
    """Decides the images that one path of projected gradient descent breaks in the pixel range."""

    adversary: Adversary
    pgd: PGD = field(default_factory=PGD)
    name: str = "attack"
    verdict: Verdict = Verdict.ATTACKED

    def __call__(self, batch: Batch, known: Known) -> Finding:
        around = self.adversary.likely(batch)
        return self.adversary.finding(self.pgd(self.adversary.target, around, batch.references, batch.seeds))


@dataclass(frozen=True)
class TargetedAttack:
    """Decides the images that a path towards a rival breaks, of those rivals that no bound has closed.

    In the pixel range first, then in all of the ball. Where an estimate has closed all rivals but its proof failed, all
    are tried.
    """

    adversary: Adversary
    targeted: Targeted = field(default_factory=Targeted)
    name: str = "targeted"
    verdict: Verdict = Verdict.ATTACKED

    def __call__(self, batch: Batch, known: Known) -> Finding:
        pictures, allowed = self.adversary.likely(batch), self.adversary.allowed(batch)
        rivals = self._rivals(batch, known.bounds)
        reached = self._reached(batch, pictures, rivals, torch.arange(len(batch), device=rivals.device))
        wider = (allowed.low < pictures.low) | (allowed.high > pictures.high)
        left = torch.nonzero(~reached.refuted & flat(wider).any(1))[:, 0]
        return self.adversary.finding(reached.joined(self._reached(batch, allowed, rivals, left), left))

    def _rivals(self, batch: Batch, bounds: Tensor) -> Tensor:
        """Which logits paths are to reach, boolean `[batch, logits]`."""
        specification, classes = self.adversary.target.specification, self.adversary.target.program.classes
        open_ = specification.open(bounds, batch.references, classes)
        every = specification.rivals(batch.references, bounds.shape[1], classes)
        return torch.where(open_.any(1, keepdim=True), open_, every)

    def _reached(self, batch: Batch, around: Perturbations, rivals: Tensor, positions: Tensor) -> Attacked:
        """What paths of some images reach; positions: index."""
        some = batch.select(positions)
        return self.targeted(
            self.adversary.target, around.select(positions), some.references, some.seeds, rivals[positions]
        )
