"""Projected gradient descent towards one rival class after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.certification.attack import RESTART, Attacked, Loss, Paths, Target, ascend
from llcert.certification.perturbations import Perturbations
from llcert.program import Program

_VALUES = 2**22
"""How many values of the network the paths that are followed together may hold; as many paths as images always may."""


@dataclass(frozen=True)
class Targeted:
    """PGD that ascends the logit difference of one rival after the other (MultiTargeted, Gowal et al. 2019).

    steps: their lengths in units of eps, long ones first. starts: the image and random points of its set.
    """

    steps: tuple[float, ...] = tuple(0.5 * 0.7**k for k in range(10) for _ in range(4))
    starts: int = 3

    def __call__(
        self, target: Target, around: Perturbations, labels: Tensor, seeds: Tensor, rivals: Tensor
    ) -> Attacked:
        """What a path to every rival of every image reaches. rivals: which, boolean `[batch, logits]`."""
        reached = Attacked.nothing(around)
        for start in range(self.starts):
            begin = around.random(seeds + start * RESTART) if start else around.start
            for images, towards in _paths(target.program, around.start, rivals):
                open_ = ~reached.refuted[images]
                if bool(open_.any()):
                    images, towards = images[open_], towards[open_]
                    loss = _towards(target, labels[images], towards)
                    paths = Paths(around.select(images), begin[images], labels[images], images)
                    found = ascend(target, paths, loss, self.steps)
                    reached = reached.joined(found, images)
        return reached


def _towards(target: Target, labels: Tensor, rivals: Tensor) -> Loss:
    """How far the claim is violated with the help of one rival. labels, rivals: `[paths]`."""
    return lambda logits, paths: target.specification.violation_by(
        logits, labels[paths], rivals[paths], target.program.classes
    )


def _paths(program: Program, images: Tensor, rivals: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of an image and a rival, as many at a time as fit, most promising rivals of all images first."""
    logits = program.logits(images).masked_fill(~rivals, -torch.inf)
    order = logits.argsort(1, descending=True)
    wanted = rivals.gather(1, order).T  # [rank, image]
    rank, image = torch.nonzero(wanted, as_tuple=True)
    towards = order[image, rank]
    values = sum(torch.Size(n.shape).numel() for block in program.blocks for n in (block.node, *block.body))
    fitting = max(_VALUES // max(values, 1), len(images))
    yield from zip(image.split(fitting), towards.split(fitting), strict=True)
