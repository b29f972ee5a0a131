"""Projected gradient descent in L2 balls: an upper bound on what can be certified."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.certification.perturbations import Perturbations
from llcert.certification.specification import FIRST, Specification
from llcert.numerics.tensors import length, spread
from llcert.program import Program

RESTART = 1_000_003
"""How far apart the seeds of an image's restarts are: farther than those of any two images, and a prime."""

Deployed = Callable[[Tensor], Tensor]
"""The logits `[batch, classes]` that the deployed network has at points `[batch, *shape]`, in pixel units."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""What paths ascend, `[paths]`: of their logits `[paths, logits]`, and of which paths these are, `[paths]`."""


@dataclass(frozen=True)
class Target:
    """A claim about a network that an attack tries to refute.

    deployed: whose word counts; a point that refutes the claim does so by the program's logits and by these.
    """

    program: Program
    deployed: Deployed
    specification: Specification = FIRST

    def refuted(self, points: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether the claim is false at each point, `[batch]`. logits: the program's there."""
        classes = self.program.classes
        found = ~self.specification.holds(logits, labels, classes)
        where = torch.nonzero(found)[:, 0]
        if len(where):
            deployed = self.deployed(points[where].detach()).to(labels.device)
            found[where] = ~self.specification.holds(deployed, labels[where], classes)
        return found


@dataclass(frozen=True)
class Attacked:
    """What an attack has reached.

    refuted: whether the claim is false at `points`, `[batch]`. points: of each image, in its set: where the claim is
    false, else where the loss was largest, `[batch, *shape]`. loss: there, `[batch]`, float64.
    """

    refuted: Tensor
    points: Tensor
    loss: Tensor

    @staticmethod
    def nothing(around: Perturbations) -> Attacked:
        """What is known before the first step: the images themselves."""
        images = around.centres
        refuted = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        points = images.to(torch.promote_types(images.dtype, around.dtype), copy=True)
        return Attacked(refuted, points, torch.full_like(around.radii, -torch.inf))

    def joined(self, found: Attacked, images: Tensor) -> Attacked:
        """This, or what a path has reached where that is more. images: whose each path is, `[paths]`."""
        known, reached = self._rank.tolist(), found._rank.tolist()
        best: dict[int, int] = {}
        for path, image in enumerate(images.tolist()):
            if reached[path] > (reached[best[image]] if image in best else known[image]):
                best[image] = path
        there, here = (torch.tensor(list(p), dtype=torch.int64, device=images.device) for p in (best, best.values()))
        return Attacked(
            self.refuted.index_copy(0, there, found.refuted[here]),
            self.points.index_copy(0, there, found.points[here]),
            self.loss.index_copy(0, there, found.loss[here]),
        )

    @property
    def _rank(self) -> Tensor:
        """What is worth more is larger, `[batch]`."""
        return torch.where(self.refuted, torch.inf, self.loss)


@dataclass(frozen=True)
class Paths:
    """Where gradient ascent starts, several times in a set if need be; every field has the paths as its first axis.

    around: the set of each path. begin: its first point, `[paths, *shape]`. labels: the reference of its image. images:
    the positions of the images in their batch.
    """

    around: Perturbations
    begin: Tensor
    labels: Tensor
    images: Tensor


def ascend(
    target: Target, paths: Paths, loss: Loss, steps: Sequence[float], *, patience: int = 0, progress: float = 0.0
) -> Attacked:
    """Where paths of gradient steps get to, at most until the first of an image refutes its specification.

    steps: their lengths, in units of eps. patience: steps in a row without progress, a share of the best loss so far,
    after which a path ends; 0 for never.
    """
    around, labels, images = paths.around, paths.labels, paths.images
    reached = Attacked.nothing(around)
    done = torch.zeros(int(images.max()) + 1 if len(images) else 0, dtype=torch.bool, device=images.device)
    going, current = torch.arange(len(images), device=images.device), paths.begin
    best, since = torch.full_like(around.radii, -torch.inf), torch.zeros_like(going)
    for stride in (*steps, 0.0):
        here = around.select(going)
        gradient, value, logits = _gradient(target.program, current, loss, going)
        within = here.contains(current)
        refuted = within & target.refuted(current, logits, labels[going])
        kept = refuted | (within & (value > reached.loss[going]))
        reached.refuted[going], reached.points[going[kept]] = refuted, current[kept].to(reached.points.dtype)
        reached.loss[going[kept]] = value[kept]
        done[images[going[refuted]]] = True
        better = value > best + progress * best.abs().nan_to_num(posinf=0.0)
        best, since = torch.where(better, value, best), torch.where(better, 0, since + 1)
        left = ~done[images[going]] & ((since < patience) if patience else True)
        going, current, gradient, best, since = (t[left] for t in (going, current, gradient, best, since))
        if len(going) == 0:
            break
        here = around.select(going)
        current = here.project(current + spread(stride * here.radii, current).to(current.dtype) * _unit(gradient))
    return reached


def _gradient(program: Program, points: Tensor, loss: Loss, paths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The direction of the loss's gradient at each point, the loss in float64, and the logits.

    The gradient is that of the loss over a power of two near the largest logit, so that no scale of the logits lets it
    vanish or overflow.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = program.logits(points)
        value = loss(logits, paths)
        largest = logits.detach().abs().amax(1).nan_to_num(posinf=torch.finfo(logits.dtype).max)
        weight = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent.clamp(-120, 120))
        (gradient,) = torch.autograd.grad((value * weight).sum(), points)
    return gradient, value.detach().double(), logits.detach()


def _unit(gradient: Tensor) -> Tensor:
    """Each gradient, of length 1; zero where it is zero or not finite."""
    size = spread(length(gradient), gradient)
    return torch.where((size > 0) & torch.isfinite(size), gradient / size, torch.zeros_like(gradient))


class Objective(enum.Enum):
    """What PGD ascends."""

    CROSS_ENTROPY = "cross-entropy"  # by its direction; which one that is depends on the scale of the logits
    MARGIN = "margin"  # the largest violation of the claim alone


@dataclass(frozen=True)
class PGD:
    """L2 projected gradient descent (Madry et al. 2018): the paper's 100 steps of eps/4, unless they get nowhere.

    steps: gradient steps of a restart. step: length of one, in units of eps. restarts: from fresh random points of
    the set; the first restart begins at the image itself if `random_start` is off. patience: steps in a row without
    progress, a share of the best loss so far, after which an image is given up; 0 for never, as in the paper.
    """

    steps: int = 100
    step: float = 0.25
    restarts: int = 1
    patience: int = 15
    progress: float = 1e-3
    random_start: bool = True
    objective: Objective = Objective.CROSS_ENTROPY

    def __call__(self, target: Target, around: Perturbations, labels: Tensor, seeds: Tensor) -> Attacked:
        """What one path an image and restart reaches. around: of each image. labels, seeds: `[batch]`."""
        reached = Attacked.nothing(around)
        for restart in range(self.restarts):
            open_ = torch.nonzero(~reached.refuted)[:, 0]
            if len(open_) == 0:
                break
            some, own = around.select(open_), labels[open_]
            begin = some.start
            if self.random_start or restart:
                begin = some.random(seeds[open_.to(seeds.device)] + restart * RESTART)
            paths = Paths(some, begin, own, torch.arange(len(open_), device=own.device))
            steps, loss = (self.step,) * self.steps, self._loss(target, own)
            found = ascend(target, paths, loss, steps, patience=self.patience, progress=self.progress)
            reached = reached.joined(found, open_)
        return reached

    def _loss(self, target: Target, labels: Tensor) -> Loss:
        of = target.specification.loss if self.objective is Objective.CROSS_ENTROPY else target.specification.violation
        return lambda logits, paths: of(logits, labels[paths], target.program.classes)
