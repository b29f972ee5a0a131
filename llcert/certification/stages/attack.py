"""The stages that look for counterexamples: one path before the costly bounds, one to every open rival after them
(docs/method.md, section 15).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.certification.attack import Adversary, Attacked
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.perturbations import Perturbations
from llcert.certification.pgd import PGD, TargetedPGD
from llcert.certification.verdict import Finding, Verdict
from llcert.numerics.tensors import flat


@dataclass(frozen=True)
class Attack:
    """Decides the images for which one path of projected gradient descent finds a counterexample in the pixel range."""

    adversary: Adversary
    pgd: PGD = field(default_factory=PGD)
    name: str = "attack"
    verdict: Verdict = Verdict.ATTACKED

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        around = self.adversary.natural(batch)
        return _finding(self.adversary, self.pgd(self.adversary, around, batch.references, batch.seeds))


@dataclass(frozen=True)
class TargetedAttack:
    """Decides the images for which a path towards one rival finds a counterexample, in the pixel range or else in all
    of the ball.

    Rivals whose margin an earlier stage bounded above zero are left out, unless all were (by an estimate that no proof
    followed): then every rival is tried.
    """

    adversary: Adversary
    pgd: TargetedPGD = field(default_factory=TargetedPGD)
    name: str = "targeted"
    verdict: Verdict = Verdict.ATTACKED

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        natural, allowed = self.adversary.natural(batch), self.adversary.allowed(batch)
        rivals = self._rivals(batch, so_far.bounds)
        reached = self._reached(batch, natural, rivals, torch.arange(len(batch), device=rivals.device))
        wider = (allowed.low < natural.low) | (allowed.high > natural.high)
        left = torch.nonzero(~reached.refuted & flat(wider).any(1))[:, 0]
        return _finding(self.adversary, reached.joined(self._reached(batch, allowed, rivals, left), left))

    def _rivals(self, batch: Batch, bounds: Tensor) -> Tensor:
        """The logits that paths are to reach, boolean `[batch, logits]`."""
        specification, classes = self.adversary.specification, self.adversary.program.classes
        open_ = specification.open(bounds, batch.references, classes)
        every = specification.rivals(batch.references, bounds.shape[1], classes)
        return torch.where(open_.any(1, keepdim=True), open_, every)

    def _reached(self, batch: Batch, around: Perturbations, rivals: Tensor, positions: Tensor) -> Attacked:
        """The points that the attack reaches from some of the images; positions: index."""
        some = batch.select(positions)
        return self.pgd(self.adversary, around.select(positions), some.references, some.seeds, rivals[positions])


def _finding(adversary: Adversary, reached: Attacked) -> Finding:
    """The finding of a stage whose attack has reached these points."""
    # where only pictures count, the format may round a pixel at an end of the range out of it
    pictures = adversary.pixels.holds(reached.points) | adversary.restricted
    return Finding(reached.refuted, counterexample=reached.points, in_range=pictures)
