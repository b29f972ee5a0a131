"""Projected gradient descent in the L2 ball: an upper bound on what can be certified."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.certify.verdict import leads
from llcert.program import Program
from llcert.region import length, spread


@dataclass(frozen=True)
class PGD:
    """L2 projected gradient descent (Madry et al. 2018): the paper's 100 steps of eps/4.

    steps: gradient steps of a restart. step: length of one, in units of eps. restarts: from fresh random points of
    the ball; the first restart begins at the image itself if `random_start` is off.
    """

    steps: int = 100
    step: float = 0.25
    restarts: int = 1
    random_start: bool = True

    def __call__(
        self, program: Program, images: Tensor, labels: Tensor, eps: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Whether each image was broken, `[batch]`, and the point where (the image itself where it was not).

        A broken image has a point in the ball and in the pixel range at which its label is not strictly first.
        images: `[batch, *shape]`, pixel units. eps: radius in pixel units. seed: of the random starts.
        """
        broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        points = images.clone()
        generator = torch.Generator().manual_seed(seed)
        for restart in range(self.restarts):
            unbroken = torch.nonzero(~broken)[:, 0]
            if len(unbroken) == 0:
                break
            anchors = images[unbroken]
            begin = _random_point(anchors, eps, generator) if self.random_start or restart else anchors
            hit, found = self._descend(program, anchors, begin, labels[unbroken], eps)
            broken[unbroken[hit]] = True
            points[unbroken[hit]] = found[hit]
        return broken, points

    def _descend(
        self, program: Program, anchors: Tensor, begin: Tensor, labels: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        hit = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        points, images = begin.clone(), torch.arange(len(anchors), device=anchors.device)
        current = begin
        for _ in range(self.steps + 1):
            gradient, failing = _gradient(program, current, labels[images])
            failing = failing & (length((current - anchors[images]).double()) <= eps)
            points[images] = current
            hit[images] = failing
            images, gradient, current = images[~failing], gradient[~failing], current[~failing]
            if len(images) == 0:
                break
            size = spread(length(gradient), gradient)
            direction = torch.where(size > 0, gradient / size, torch.zeros_like(gradient))
            current = _project(current + self.step * eps * direction, anchors[images], eps)
        return hit, points


def _gradient(program: Program, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The ascent direction at each point, and whether the label already is not strictly first there.

    `logsumexp of the other logits - own logit` has the direction of the cross-entropy's gradient but does not
    vanish where the network is confident.
    """
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        logits = program.logits(points)
        own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        loss = torch.logsumexp(logits.masked_fill(own, -torch.inf), 1) - logits[own]
        (gradient,) = torch.autograd.grad(loss.sum(), points)
    return gradient, ~leads(logits.detach(), labels)


def _random_point(anchors: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(anchors.shape, generator=generator, dtype=torch.float32).to(anchors.device, anchors.dtype)
    size = torch.rand(len(anchors), generator=generator).to(anchors.device, anchors.dtype) * eps
    return _project(anchors + noise * spread(size / length(noise), noise), anchors, eps)


def _project(points: Tensor, anchors: Tensor, eps: float) -> Tensor:
    """The nearest point of the ball, then of the pixel range; an anchor outside [0, 1] widens the range.

    A hair inside the ball, so that rounding rarely carries a point out of it.
    """
    offset = points - anchors
    size = spread(length(offset), offset)
    inside = eps * (1 - 1e-6)
    offset = torch.where(size > inside, offset * (inside / size), offset)
    return torch.minimum(torch.maximum(anchors + offset, anchors.clamp(max=0)), anchors.clamp(min=1))
