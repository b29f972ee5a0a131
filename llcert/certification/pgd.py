"""The two attacks: projected gradient descent on one loss, and towards one rival class after the other.

docs/method.md, section 15.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.certification.attack import Adversary, Attacked, Loss, Paths, ascend
from llcert.certification.perturbations import Perturbations
from llcert.program import Program

_RESTART = 1_000_003
"""How far apart the seeds of an image's restarts are: farther than those of any two images, and a prime."""

_VALUES = 2**22
"""How many values of the network the paths that are followed together may hold; as many paths as images always may."""


class AttackLoss(enum.Enum):
    """The loss that PGD ascends."""

    LOG_SUM_EXP = "log-sum-exp"  # of the rivals' logits, less the reference's: the direction of the cross-entropy
    MARGIN = "margin"  # how far the specification is violated: the largest rival's logit, less the reference's


@dataclass(frozen=True)
class PGD:
    """L2 projected gradient descent (Madry et al. 2018): the paper's 100 steps of eps/4, unless they get nowhere.

    steps: gradient steps of a restart. step: length of one, in units of eps. restarts: from fresh random points of
    the set; the first restart begins at the image itself if `random_start` is off. patience: steps in a row that raise
    the best loss by less than the share `progress`, after which an image is given up; 0 for never, as in the paper.
    """

    steps: int = 100
    step: float = 0.25
    restarts: int = 1
    patience: int = 15
    progress: float = 1e-3
    random_start: bool = True
    loss: AttackLoss = AttackLoss.LOG_SUM_EXP

    def __call__(self, adversary: Adversary, around: Perturbations, references: Tensor, seeds: Tensor) -> Attacked:
        """The points that one path for each image and restart reaches.

        around: the set of each image. references, seeds: `[batch]`.
        """
        reached = Attacked.nothing(around)
        for restart in range(self.restarts):
            open_ = torch.nonzero(~reached.refuted)[:, 0]
            if len(open_) == 0:
                break
            some, own = around.select(open_), references[open_]
            begin = some.start
            if self.random_start or restart:
                begin = some.random(seeds[open_.to(seeds.device)] + restart * _RESTART)
            paths = Paths(some, begin, own, torch.arange(len(open_), device=own.device))
            steps, loss = (self.step,) * self.steps, self._loss(adversary, own)
            found = ascend(adversary, paths, loss, steps, patience=self.patience, progress=self.progress)
            reached = reached.joined(found, open_)
        return reached

    def _loss(self, adversary: Adversary, references: Tensor) -> Loss:
        specification, classes = adversary.specification, adversary.program.classes
        loss = specification.loss if self.loss is AttackLoss.LOG_SUM_EXP else specification.violation
        return lambda logits, paths: loss(logits, references[paths], classes)


@dataclass(frozen=True)
class TargetedPGD:
    """PGD that ascends the logit difference of one rival after the other (MultiTargeted, Gowal et al. 2019).

    steps: their lengths in units of eps, long ones first. starts: how many paths each rival has: one from the image
    itself, the others from random points.
    """

    steps: tuple[float, ...] = tuple(0.5 * 0.7**k for k in range(10) for _ in range(4))
    starts: int = 3

    def __call__(
        self, adversary: Adversary, around: Perturbations, references: Tensor, seeds: Tensor, rivals: Tensor
    ) -> Attacked:
        """The points that paths towards rivals reach. rivals: of each image, boolean `[batch, logits]`."""
        reached = Attacked.nothing(around)
        for start in range(self.starts):
            begin = around.random(seeds + start * _RESTART) if start else around.start
            for images, towards in _paths(adversary.program, around.start, rivals):
                open_ = ~reached.refuted[images]
                if bool(open_.any()):
                    images, towards = images[open_], towards[open_]
                    loss = _towards(adversary, references[images], towards)
                    paths = Paths(around.select(images), begin[images], references[images], images)
                    found = ascend(adversary, paths, loss, self.steps)
                    reached = reached.joined(found, images)
        return reached


def _towards(adversary: Adversary, references: Tensor, rivals: Tensor) -> Loss:
    """How far the specification is violated with the help of one rival. references, rivals: `[paths]`."""
    specification, classes = adversary.specification, adversary.program.classes
    return lambda logits, paths: specification.violation_by(logits, references[paths], rivals[paths], classes)


def _paths(program: Program, images: Tensor, rivals: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of an image and a rival, as many at a time as fit, the largest rival logits of all images first."""
    logits = program.logits(images).masked_fill(~rivals, -torch.inf)
    order = logits.argsort(1, descending=True)
    wanted = rivals.gather(1, order).T  # [rank, image]
    rank, image = torch.nonzero(wanted, as_tuple=True)
    towards = order[image, rank]
    values = sum(torch.Size(n.shape).numel() for block in program.blocks for n in (block.node, *block.body))
    fitting = max(_VALUES // max(values, 1), len(images))
    yield from zip(image.split(fitting), towards.split(fitting), strict=True)
