"""The stages that look for counterexamples: one path before the costly bounds, one to every open rival after them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.certify.attack import PGD, Attacked, Target
from llcert.certify.perturbations import Perturbations
from llcert.certify.radii import Eps, radii_of
from llcert.certify.targeted import Targeted
from llcert.certify.verdict import Finding, Verdict
from llcert.layout import flat
from llcert.region import UNIT, PixelRange


@dataclass(frozen=True)
class Adversary:
    """What is to be refuted, and by which points.

    pixels: what a pixel may be. restricted: whether the claim is about points in that range alone, not whole balls.
    """

    target: Target
    eps: Eps
    pixels: PixelRange = UNIT
    restricted: bool = False
    seed: int = 0

    def likely(self, images: Tensor, indices: Tensor) -> Perturbations:
        """The points of each ball that are pictures: in the pixel range, if the image is."""
        if self.restricted:
            return self.allowed(images, indices)
        return Perturbations.natural(images, radii_of(self.eps, indices), self.target.program.dtype, self.pixels)

    def allowed(self, images: Tensor, indices: Tensor) -> Perturbations:
        """All points that the claim is about. indices: of the images in the data set."""
        radii, dtype = radii_of(self.eps, indices), self.target.program.dtype
        if self.restricted:
            return Perturbations.clipped(images, radii, dtype, self.pixels)
        return Perturbations.whole(images, radii, dtype)

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

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, bounds: Tensor) -> Finding:
        adversary = self.adversary
        around = adversary.likely(images, indices)
        return adversary.finding(self.pgd(adversary.target, around, labels, adversary.seed + indices))


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

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, bounds: Tensor) -> Finding:
        adversary, target = self.adversary, self.adversary.target
        classes = target.program.classes
        open_ = target.specification.open(bounds, labels, classes)
        every = target.specification.rivals(labels, bounds.shape[1], classes)
        rivals = torch.where(open_.any(1, keepdim=True), open_, every)

        def reach(around: Perturbations, some: Tensor) -> Attacked:
            seeds = adversary.seed + indices[some]
            return self.targeted(target, around.select(some), labels[some], seeds, rivals[some])

        pictures, allowed = adversary.likely(images, indices), adversary.allowed(images, indices)
        reached = reach(pictures, torch.arange(len(images), device=images.device))
        wider = (allowed.low < pictures.low) | (allowed.high > pictures.high)
        left = torch.nonzero(~reached.refuted & flat(wider).any(1))[:, 0]
        return adversary.finding(reached.joined(reach(allowed, left), left))
