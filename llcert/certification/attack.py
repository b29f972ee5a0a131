"""Gradient ascent inside L2 balls, towards points at which a specification is false (docs/method.md, section 15).

`Adversary` says which points count and when one is a counterexample, `ascend` follows paths of gradient steps; the
attacks in `llcert.certification.pgd` choose the paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.certification.batch import Batch
from llcert.certification.perturbations import Perturbations
from llcert.certification.specification import FIRST, Specification
from llcert.domain.pixel_range import UNIT, PixelRange
from llcert.numerics.tensors import length, spread
from llcert.program import Program

Loss = Callable[[Tensor, Tensor], Tensor]
"""The loss that paths ascend, `[paths]`, given their logits `[paths, logits]` and their numbers `[paths]`."""


@dataclass(frozen=True)
class Adversary:
    """The threat model: a network, a specification to refute, and the points that may refute it.

    deployed: logits `[points, classes]` of the network as it is run, at points `[points, *shape]` in pixel units; a
    counterexample must refute the specification by these and by the program's own. None: by the program's alone.
    pixels: the pixel range. restricted: whether only points in that range count, not the whole ball.
    """

    program: Program
    deployed: Callable[[Tensor], Tensor] | None = None
    specification: Specification = FIRST
    pixels: PixelRange = UNIT
    restricted: bool = False

    def allowed(self, batch: Batch) -> Perturbations:
        """All points that the specification is about: each ball, or its part in the pixel range."""
        if self.restricted:
            return Perturbations.clipped(batch.images, batch.radii, self.program.dtype, self.pixels)
        return Perturbations.whole(batch.images, batch.radii, self.program.dtype)

    def natural(self, batch: Batch) -> Perturbations:
        """The points among them that are pictures: in the pixel range, unless the image itself leaves it."""
        if self.restricted:
            return self.allowed(batch)
        return Perturbations.natural(batch.images, batch.radii, self.program.dtype, self.pixels)

    def refuted(self, points: Tensor, logits: Tensor, references: Tensor) -> Tensor:
        """Whether each point is a counterexample, boolean `[points]`. logits: the program's there."""
        found = ~self.specification.holds(logits, references, self.program.classes)
        where = torch.nonzero(found)[:, 0]
        if len(where) and self.deployed is not None:
            deployed = self.deployed(points[where].detach()).to(references.device)
            found[where] = ~self.specification.holds(deployed, references[where], self.program.classes)
        return found


@dataclass(frozen=True)
class Attacked:
    """The points that an attack has reached, one an image.

    refuted: whether `points` are counterexamples, boolean `[batch]`. points: of each image's set, a counterexample or
    else the point of the largest loss, `[batch, *shape]`. loss: there, `[batch]`, float64.
    """

    refuted: Tensor
    points: Tensor
    loss: Tensor

    @staticmethod
    def nothing(around: Perturbations) -> Attacked:
        """Before the first step: the images themselves, with a loss of -inf."""
        images = around.centres
        refuted = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        points = images.to(torch.promote_types(images.dtype, around.dtype), copy=True)
        return Attacked(refuted, points, torch.full_like(around.radii, -torch.inf))

    def joined(self, found: Attacked, images: Tensor) -> Attacked:
        """The better of this and of what paths have reached, image by image. images: of each path, `[paths]`."""
        before, reached = self._rank.tolist(), found._rank.tolist()
        best: dict[int, int] = {}
        for path, image in enumerate(images.tolist()):
            if reached[path] > (reached[best[image]] if image in best else before[image]):
                best[image] = path
        there, here = (torch.tensor(list(p), dtype=torch.int64, device=images.device) for p in (best, best.values()))
        return Attacked(
            self.refuted.index_copy(0, there, found.refuted[here]),
            self.points.index_copy(0, there, found.points[here]),
            self.loss.index_copy(0, there, found.loss[here]),
        )

    @property
    def _rank(self) -> Tensor:
        """Larger for what is worth more: a counterexample, then a larger loss, `[batch]`."""
        return torch.where(self.refuted, torch.inf, self.loss)


@dataclass(frozen=True)
class Paths:
    """The starts of gradient ascent; several paths may belong to one image.

    around: the set that each path stays in. begin: its first point, `[paths, *shape]`. references: the reference
    class of its image, `[paths]`. images: the position of its image in the batch, `[paths]`.
    """

    around: Perturbations
    begin: Tensor
    references: Tensor
    images: Tensor


def ascend(
    adversary: Adversary,
    paths: Paths,
    loss: Loss,
    steps: Sequence[float],
    *,
    patience: int = 0,
    progress: float = 0.0,
) -> Attacked:
    """The points that paths of gradient steps reach; all paths of an image end at its first counterexample.

    steps: their lengths, in units of eps. patience: a path ends after so many steps in a row that raise its best loss
    by less than the share `progress`; 0 for never.
    """
    around, references, images = paths.around, paths.references, paths.images
    reached = Attacked.nothing(around)
    done = torch.zeros(int(images.max()) + 1 if len(images) else 0, dtype=torch.bool, device=images.device)
    going, current = torch.arange(len(images), device=images.device), paths.begin
    best, since = torch.full_like(around.radii, -torch.inf), torch.zeros_like(going)
    for stride in (*steps, 0.0):
        here = around.select(going)
        gradient, value, logits = _gradient(adversary.program, current, loss, going)
        within = here.contains(current)
        refuted = within & adversary.refuted(current, logits, references[going])
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
