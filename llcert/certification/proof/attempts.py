"""The attempts of a prover at an objective by a backward pass, cheapest first (docs/method.md, section 14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.alpha import Ascent
from llcert.bounds.backward.branch_and_bound import Leaves, bounded
from llcert.bounds.backward.choices import Choice, Choices, fixed, tightest
from llcert.bounds.backward.crown import Backward
from llcert.certification.proof.hint import BranchCover, FixedRelaxation


@dataclass(frozen=True)
class Objectives:
    """Objectives `z_y - z_j` whose lower bounds are to become positive.

    trace: the forward pass of the image of each, its batch axis the objectives. directions: coefficients on the logits,
    `[objectives, 1, logits]`. images: the position of the image in the batch, `[objectives]`. classes: j,
    `[objectives]`. enough: an ascent stops where the bound exceeds it, `[objectives]`.
    """

    trace: Trace
    directions: Tensor
    images: Tensor
    classes: Tensor
    enough: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def select(self, positions: Tensor) -> Objectives:
        """Some of the objectives, possibly repeated; positions: index."""
        rest = (t[positions] for t in (self.directions, self.images, self.classes, self.enough))
        return Objectives(self.trace.select(positions), *rest)


@dataclass(frozen=True)
class Attempted:
    """The bounds that an attempt found for some of the objectives.

    positions: of these among all objectives, `[tried]`. bounds: lower bounds, `[tried]`. choices: the relaxations that
    give them, `[tried, 1, ...]`; or, in their place, leaves: parts of the ball, whose `rows` are positions in `bounds`.
    """

    positions: Tensor
    bounds: Tensor
    choices: Choices = field(default_factory=dict)
    leaves: Leaves | None = None


Attempt = Callable[[Backward, Objectives], Attempted]
"""Bounds objectives, or those among them that a hint has relaxations or a branch cover for."""


def closed(backward: Backward, objectives: Objectives) -> Attempted:
    """By the tightest slopes over each box and the best multipliers, in closed form; each row at its best stop."""
    found = backward(objectives.trace, {backward.program.output: objectives.directions}, tightest, best_stop=True)
    return Attempted(_all(objectives), found.lower[:, 0], found.linear.choices)


def repeated(relaxation: FixedRelaxation, backward: Backward, objectives: Objectives) -> Attempted:
    """By the relaxations that an estimate optimised, as they are; each row at its best stop."""
    here, there = relaxation.find(objectives.images, objectives.classes)
    if len(here) == 0:
        return Attempted(here, objectives.enough[here])
    some = objectives.select(here)
    choices = {k: Choice(c.slopes[there].double(), c.lam[there].double()) for k, c in relaxation.choices.items()}
    found = backward(some.trace, {backward.program.output: some.directions}, fixed(choices), best_stop=True)
    return Attempted(here, found.lower[:, 0], choices)


def ascended(
    relaxation: FixedRelaxation | None, ascent: Ascent, backward: Backward, objectives: Objectives
) -> Attempted:
    """By gradient ascent on the proved bound itself, from an estimate's relaxations or else from the tightest."""
    rows = {backward.program.output: objectives.directions}
    start = backward(objectives.trace, rows, tightest).linear.choices
    if relaxation is not None:
        start = relaxation.filled(start, objectives.images, objectives.classes)
    bounds, choices = ascent(backward, objectives.trace, rows, start, enough=objectives.enough[:, None])
    return Attempted(_all(objectives), bounds[:, 0], choices)


def branched(cover: BranchCover, ascent: Ascent, backward: Backward, objectives: Objectives) -> Attempted:
    """By the worst part of a branch cover: each part by its own relaxations, or an ascent where these fail."""
    here, there = cover.find(objectives.images, objectives.classes)
    worst, parts = objectives.enough.new_full((len(here),), -torch.inf), list[Leaves]()
    for row, (place, covered) in enumerate(zip(here.tolist(), there.tolist(), strict=True)):
        leaves = cover.leaves.select(cover.leaves.rows == covered).double()
        if len(leaves) == 0:
            continue
        each = objectives.select(torch.full_like(leaves.rows, place))
        rows = {backward.program.output: each.directions}
        leaves = bounded(backward, each.trace, rows, leaves, ascent, each.enough)
        worst[row] = leaves.bounds.amin()
        parts.append(replace(leaves, rows=torch.full_like(leaves.rows, row)))
    return Attempted(here, worst, leaves=Leaves.joined(parts) if parts else None)


def _all(objectives: Objectives) -> Tensor:
    return torch.arange(len(objectives), device=objectives.images.device)
