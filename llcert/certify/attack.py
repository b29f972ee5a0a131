"""Projected gradient descent in the L2 ball: an upper bound on what can be certified."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.certify.claim import FIRST, Claim
from llcert.program import Program
from llcert.region import length, spread

_RESTART = 1_000_003
"""How far apart the seeds of an image's restarts are: farther than those of any two images, and a prime."""


@dataclass(frozen=True)
class PGD:
    """L2 projected gradient descent (Madry et al. 2018): the paper's 100 steps of eps/4, unless they get nowhere.

    steps: gradient steps of a restart. step: length of one, in units of eps. restarts: from fresh random points of
    the ball; the first restart begins at the image itself if `random_start` is off. patience: steps in a row without
    progress, a share of the best loss so far, after which an image is given up; 0 for never, as in the paper.
    """

    steps: int = 100
    step: float = 0.25
    restarts: int = 1
    patience: int = 15
    progress: float = 1e-3
    random_start: bool = True

    def __call__(
        self,
        program: Program,
        images: Tensor,
        labels: Tensor,
        eps: float | Tensor,
        seed: int | Tensor,
        claim: Claim = FIRST,
    ) -> tuple[Tensor, Tensor]:
        """Whether each image was broken, `[batch]`, and the point where (the image itself where it was not).

        A broken image has a point in the ball and in the pixel range at which the claim is false.
        images: `[batch, *shape]`, pixel units, exactly: the points are numbers of the program's format in balls around
        them. eps: radius in pixel units, a number or `[batch]`. seed: of the random
        starts, one or `[batch]`.
        """
        radii = torch.as_tensor(eps, dtype=torch.float64, device=images.device).expand(len(images))
        broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        points = program.entering(images).clone()
        seeds = seed + torch.arange(len(images)) if isinstance(seed, int) else seed
        for restart in range(self.restarts):
            unbroken = torch.nonzero(~broken)[:, 0]
            if len(unbroken) == 0:
                break
            anchors = images[unbroken]
            reach = radii[unbroken]
            begin = anchors
            if self.random_start or restart:
                begin = _random_point(anchors, reach, seeds[unbroken.to(seeds.device)] + restart * _RESTART)
            hit, found = self._descend(program, anchors, begin, labels[unbroken], reach, claim)
            broken[unbroken[hit]] = True
            points[unbroken[hit]] = found[hit]
        return broken, points

    def _descend(
        self, program: Program, anchors: Tensor, begin: Tensor, labels: Tensor, eps: Tensor, claim: Claim
    ) -> tuple[Tensor, Tensor]:
        hit = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        current = program.entering(begin)
        points, images = current.clone(), torch.arange(len(anchors), device=anchors.device)
        best, since = torch.full_like(eps, -torch.inf), torch.zeros_like(images)
        for _ in range(self.steps + 1):
            gradient, loss, failing = _gradient(program, current, labels[images], claim)
            failing = failing & (length((current - anchors[images]).double()) <= eps[images])
            better = loss > best + self.progress * best.abs().nan_to_num(posinf=0.0)
            best, since = torch.where(better, loss, best), torch.where(better, 0, since + 1)
            ended = failing | (since >= self.patience) if self.patience else failing
            points[images[ended]] = current[ended]
            hit[images] = failing
            images, gradient, current, best, since = (t[~ended] for t in (images, gradient, current, best, since))
            if len(images) == 0:
                break
            size = spread(length(gradient), gradient)
            direction = torch.where(size > 0, gradient / size, torch.zeros_like(gradient))
            stride = spread(self.step * eps[images], direction).to(direction.dtype)
            current = program.entering(_project(current + stride * direction, anchors[images], eps[images]))
        return hit, points


def _gradient(program: Program, points: Tensor, labels: Tensor, claim: Claim) -> tuple[Tensor, Tensor, Tensor]:
    """The ascent direction of the claim's loss at each point, the loss, and whether the claim already is false."""
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = program.logits(points)
        loss = claim.loss(logits, labels, program.classes)
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    return gradient, loss.detach().double(), ~claim.holds(logits.detach(), labels, program.classes)


def _random_point(anchors: Tensor, eps: Tensor, seeds: Tensor) -> Tensor:
    """A point of each ball, which depends on its own seed alone. seeds: `[batch]`."""
    generator, size = torch.Generator(), torch.empty(len(anchors))
    noise = torch.empty(anchors.shape, dtype=torch.float32)
    for i, seed in enumerate(seeds.tolist()):
        noise[i].normal_(generator=generator.manual_seed(seed))
        size[i].uniform_(generator=generator)
    noise, size = (t.to(anchors.device, anchors.dtype) for t in (noise, size))
    size = size * eps.to(anchors.dtype)
    return _project(anchors + noise * spread(size / length(noise), noise), anchors, eps)


def _project(points: Tensor, anchors: Tensor, eps: Tensor) -> Tensor:
    """The nearest point of the ball, then of the pixel range; an anchor outside [0, 1] widens the range.

    A hair inside the ball, so that rounding rarely carries a point out of it.
    """
    offset = points - anchors
    size = spread(length(offset), offset)
    inside = spread(eps * (1 - 1e-6), offset).to(offset.dtype)
    offset = torch.where(size > inside, offset * (inside / size), offset)
    return torch.minimum(torch.maximum(anchors + offset, anchors.clamp(max=0)), anchors.clamp(min=1))
