"""Objectives of tiny networks, their gradients, and what a search finds: shared by tests of losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from toys import toy, toy_batch

from llcert.bounds import EstimatedArithmetic, global_bound, propagate
from llcert.domain.region import ball
from llcert.ir import Network
from llcert.program import Program, Term, lower
from llcert.spectral import Lanczos
from llcert_train import losses
from llcert_train.objective import Measures, Objective
from llcert_train.settings import Loss, Recipe
from llcert_train.weights import Weights

RADIUS = 0.3


CONVERGED = {
    torch.float64: Lanczos(tolerance=1e-8, vectors=True),
    torch.float32: Lanczos(tolerance=1e-4, vectors=True),
}


@dataclass(frozen=True)
class Subject:
    """A network in training, its images, and vectors of its maps that have converged at RADIUS."""

    weights: Weights
    program: Program
    images: Tensor
    labels: Tensor
    vectors: Mapping[Term, Tensor]
    unmasked: Mapping[Term, Tensor]

    def measures(self, radius: float = RADIUS, kappa: float = 0.0, **recipe: Any) -> Measures:
        """What a recipe's objective says, from the converged vectors on."""
        objective = Objective(self.program, Recipe(**{"iterations": 10, **recipe}), self.weights.leaves)
        return objective(self.images, self.labels, radius, kappa, self.unmasked, self.vectors, 0)

    def loss(self, **how: Any) -> float:
        with torch.no_grad():
            return float(self.measures(**how).loss)

    def told(self, radius: float = RADIUS, **recipe: Any) -> tuple[Tensor, Tensor, float]:
        """Logits and worst logits that the recipe's loss is made of, and the loss, without gradients."""
        found: list[tuple[Tensor, Tensor]] = []
        original = losses.worst_logits

        def noted(logits: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
            found.append((logits, original(logits, labels, margins)))
            return found[-1][1]

        with patch.object(losses, "worst_logits", noted):
            loss = self.loss(radius=radius, **recipe)
        ((logits, worst),) = found
        return logits, worst, loss

    def seen(self, radius: float = RADIUS, **recipe: Any) -> tuple[Tensor, Tensor]:
        """Logits and worst logits alone."""
        return self.told(radius, **recipe)[:2]


def subject(network: Network, images: Tensor, labels: Tensor) -> Subject:
    weights = Weights.of(network, "cpu")
    program = lower(weights.network, dtype=network.dtype)
    solver = CONVERGED[program.dtype]
    with torch.no_grad():
        bound = global_bound(program, solver, joint=False)
        trace = propagate(program, ball(images, RADIUS), EstimatedArithmetic(bound, solver=solver, joint=False))
    vectors = {term: norm.vector for term, norm in trace.norms.items()}
    return Subject(weights, program, images, labels, vectors, bound.vectors)


def drawn(name: str, seed: int = 0, count: int = 4) -> Subject:
    network = toy(name, seed)
    return subject(network, *toy_batch(network, count, seed))


def lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.ndim - 1))


def largest_found(program: Program, image: Tensor, label: int, radius: float) -> Tensor:
    """The largest `z_j - z_y` that random and gradient search find in the ball of one image, `[classes]`."""
    classes, generator = program.output.shape[0], torch.Generator().manual_seed(label)
    noise = torch.randn(classes * 24, *image.shape, generator=generator, dtype=image.dtype)
    size = torch.rand(classes * 24, *[1] * image.ndim, generator=generator, dtype=image.dtype)
    size[::2] = 1
    offset = radius * size * noise / lengths(noise)
    rival = torch.arange(classes).repeat_interleave(24)
    best = torch.full((classes,), -torch.inf, dtype=image.dtype)
    for step in range(25):
        points = (image + offset).requires_grad_()
        logits = program.logits(points)
        gaps = logits - logits[:, label : label + 1]
        best = torch.maximum(best, gaps.detach().amax(0))
        (slope,) = torch.autograd.grad(gaps.gather(1, rival[:, None]).sum(), points)
        offset = offset + radius / (2 + step) * slope / lengths(slope).clamp(min=1e-30)
        offset = offset * (radius / lengths(offset).clamp(min=radius))
    return best


def found_by_search(s: Subject, radius: float) -> Tensor:
    """`[batch, classes]`: the largest `z_j - z_y` seen in the ball of each image."""
    pairs = zip(s.images, s.labels.tolist(), strict=True)
    return torch.stack([largest_found(s.program, image, label, radius) for image, label in pairs])


def leaves(s: Subject) -> list[Tensor]:
    return list(s.weights.leaves.values())


def gradients(s: Subject, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, leaves(s), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves(s), found, strict=True)]


def difference(s: Subject, direction: list[Tensor], value: Callable[[], float], step: float = 1e-6) -> float:
    """The central difference of a value along a direction of all leaves; the leaves are left as they were."""
    before = [p.detach().clone() for p in leaves(s)]
    found = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, old, d in zip(leaves(s), before, direction, strict=True):
                p.copy_(old + sign * step * d)
            found.append(value())
        for p, old in zip(leaves(s), before, strict=True):
            p.copy_(old)
    return (found[0] - found[1]) / (2 * step)


def directions(s: Subject, count: int) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        yield [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in leaves(s)]


BOUNDED = [loss for loss in Loss if loss not in (Loss.STANDARD, Loss.CROWN)]
"""Losses with a bound in closed form; test_crown.py is about the other one."""


METHODS: dict[str, dict[str, Any]] = {
    **{str(loss): {"loss": loss} for loss in BOUNDED},
    **{f"{loss}, local ball": {"loss": loss, "ball": "local"} for loss in (Loss.LMT, Loss.GLORO, Loss.BCP)},
    **{
        f"{loss}, global ball": {"loss": loss, "ball": "global"}
        for loss in (Loss.LOCAL_LIP_G, Loss.LOCAL_LIP_B, Loss.EMMA, Loss.LOGIT_ANNEALING)
    },
    **{
        f"{loss}, product": {"loss": loss, "ball": "product"}
        for loss in (Loss.BCP, Loss.LOCAL_LIP_B, Loss.EMMA, Loss.LOGIT_ANNEALING)
    },
    **{
        f"{loss}, LipLT": {"loss": loss, "ball": "liplt", "iterations": 300}
        for loss in (Loss.PAIRWISE, Loss.CRM, Loss.EMMA)
    },
}
"""Every way to bound the logits: each loss as it is, and with the other ball."""
