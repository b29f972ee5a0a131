"""Lower bounds on margins from the regions of the last hidden values (docs/method.md, section 8).

For the stages `global` and `local`, for the ends of backward passes, and for losses in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.trace import Trace
from llcert.bounds.global_lipschitz.constants import GlobalBound
from llcert.domain.region import MaskedRegion
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE, Rounding, downwards, upwards
from llcert.numerics.tensors import flat, length, spread
from llcert.program import Program, Term


@dataclass(frozen=True)
class LastLayer:
    """The last linear map of a network as rows, `[logits, *source shape]` for each of its terms."""

    rows: dict[Term, Tensor]

    @staticmethod
    def of(program: Program) -> LastLayer:
        """The rows by the adjoint of the map; for a network that ends in an activation, the identity behind that."""
        block = program.blocks[-1]
        unit = torch.eye(program.output.shape[0], dtype=program.dtype, device=program.device)
        if block.activation is not None:
            return LastLayer({Term(block.node, (), block.node, block.node): unit})
        return LastLayer({term: term.adjoint(unit) for term in block.terms})

    def differences(self, term: Term, labels: Tensor) -> Tensor:
        """`w_j - w_y` for every class j, `[batch, classes, source size]`; zero for j = y."""
        rows = flat(self.rows[term])
        return rows - rows[labels][:, None]


def worst_margins(logits: Tensor, labels: Tensor, last: LastLayer, hidden: Mapping[Node, MaskedRegion]) -> Tensor:
    """Lower bounds on `z_y - z_j` over box and ball of the last hidden values, `[batch, classes]`; infinite for j = y.

    logits: `[batch, classes]` at the centre. labels: `[batch]`. hidden: regions and masks of the last map's sources.
    As sound as these, up to rounding.
    """
    margins = logits.gather(1, labels[:, None]) - logits
    for term in last.rows:
        margins = margins - largest_increase(last.differences(term, labels), hidden[term.source])
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return torch.where(own, torch.inf, margins)


def pairwise_margins(program: Program, global_bound: GlobalBound, trace: Trace, labels: Tensor) -> Tensor:
    """Lower bounds of `z_y - z_j` by the Lipschitz constants of pairs, rounding included, `[batch, logits]`.

    They hold for real numbers and for every deployed evaluation, at every point of the balls. -inf where the bound has
    no constants of pairs. trace: a proof. labels: y, `[batch]`.
    """
    region = trace.post_activation[program.output].region
    if global_bound.pairs is None or trace.roundoff is None:
        return torch.full_like(region.centre, -torch.inf)
    block, known, eps = program.blocks[-1], trace.roundoff, trace.post_activation[program.input].region.radius
    slips = [known[t.source].slip if t.source in known else torch.zeros_like(eps) for t in block.terms]
    # rows of differences are at most sqrt 2 times as long as the norm of the last map
    before = 1.5 * torch.stack([global_bound.norms[t] * slip for t, slip in zip(block.terms, slips, strict=True)]).sum(
        0
    )
    own = flat(known[block.node].entrywise)
    slip = DOUBLE.above(before[:, None] + own + own.gather(1, labels[:, None]), len(block.terms) + 6)
    moved = global_bound.pairs[labels] * eps[:, None]
    lost = DOUBLE.above(moved + slip, 4) + DOUBLE.nearest(2 * region.centre.abs().amax(1, keepdim=True))
    margins = downwards(region.centre.gather(1, labels[:, None]) - region.centre - upwards(lost))
    return torch.where(region.radius.isnan()[:, None], torch.nan, margins)


def largest_increase(
    directions: Tensor, hidden: MaskedRegion, iterations: int = 30, rounding: Rounding | None = None
) -> Tensor:
    """Upper bounds on `max d . delta` over `||delta|| <= r`, `l - c <= delta <= u - c`, `[batch, directions]`.

    directions: d, `[batch, directions, size]`. By duality every `lam >= 0` gives the bound `lam r^2 / 2 + sum max
    (d delta - lam delta^2 / 2)` (docs/method.md, Proposition 8.1). In units of `||d||` and r, in which no square
    underflows, lam falls to its optimum by a fixed-point iteration from 1, where the box is ignored. rounding: of the
    arithmetic; where it is given, the result is raised by its errors: all terms are >= 0, and none is off by more than
    a few roundings of itself.
    """
    problem = _Scaled.of(directions, hidden)
    with torch.no_grad():
        lam = problem.multiplier(iterations)
    value = problem.ball_only * problem.dual(lam)[0]
    best = torch.minimum(problem.box_only, problem.ball_only)
    least = torch.where(value < best, value, best)
    return least if rounding is None else rounding.above(least, problem.d.shape[-1] + 64)


def best_multiplier(directions: Tensor, hidden: MaskedRegion, iterations: int = 30) -> Tensor:
    """The `lam >= 0` of the bound of `largest_increase`, `[batch, directions]`, 0 for the box alone."""
    problem = _Scaled.of(directions, hidden)
    lam = problem.multiplier(iterations)
    value = problem.ball_only * problem.dual(lam)[0]
    found = torch.where(value < problem.box_only, lam * (problem.size / problem.radius)[..., 0], 0.0)
    return torch.where(torch.isfinite(found), found, 0.0)


@dataclass(frozen=True)
class _Scaled:
    """The maximisation of `largest_increase` in units of `||d||` and of the radius.

    d: directions. down, up: the box relative to the centre. size, radius: the units, 1 for 0. box_only, ball_only: the
    largest increases over the box alone and over the ball alone, not in these units.
    """

    d: Tensor
    down: Tensor
    up: Tensor
    size: Tensor
    radius: Tensor
    box_only: Tensor
    ball_only: Tensor

    @staticmethod
    def of(directions: Tensor, hidden: MaskedRegion) -> _Scaled:
        """directions: `[batch, directions, size]`."""
        region = hidden.region
        varying = flat(hidden.varying)
        down = torch.where(varying, flat(region.lower - region.centre), 0.0).clamp(max=0)[:, None]
        up = torch.where(varying, flat(region.upper - region.centre), 0.0).clamp(min=0)[:, None]
        d = torch.where(varying[:, None], directions, 0.0)
        box_only = (d.clamp(min=0) * up + d.clamp(max=0) * down).sum(-1)
        size, radius = length(d, 2), region.radius[:, None]
        ball_only = size * radius
        size, radius = _nonzero(size)[..., None], _nonzero(radius)[..., None]
        return _Scaled(d / size, down / radius, up / radius, size, radius, box_only, ball_only)

    def dual(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """The dual value of multipliers, `[batch, directions]`, and the maximiser delta."""
        delta = torch.maximum(torch.minimum(self.d / lam[..., None], self.up), self.down)
        return lam / 2 + (self.d * delta - lam[..., None] * delta.square() / 2).sum(-1), delta

    def multiplier(self, iterations: int) -> Tensor:
        """The multiplier of the least dual value that the iteration meets, `[batch, directions]`; above zero, which is
        the box alone."""
        lam = torch.ones_like(self.d[..., 0])
        best, least = lam, torch.full_like(lam, torch.inf)
        for _ in range(iterations):
            value, delta = self.dual(lam)
            better = (value < least) & (lam >= torch.finfo(lam.dtype).tiny)
            best, least = torch.where(better, lam, best), torch.where(better, value, least)
            free = (delta < self.up) & (delta > self.down)
            left = 1 - torch.where(free, torch.zeros_like(delta), delta).square().sum(-1)
            following = length(torch.where(free, self.d, torch.zeros_like(self.d)), 2) / left.sqrt()
            if not bool((following < lam * (1 - 1e-6)).any()):
                break
            lam = torch.where(following < lam, following, lam)
        return best


def _nonzero(x: Tensor) -> Tensor:
    """The numbers, with 1 in place of zero, so that neither values nor gradients divide by it."""
    return torch.where(x == 0, torch.ones_like(x), x)


def gloro_margins(logits: Tensor, labels: Tensor, last: LastLayer, hidden: Mapping[Node, MaskedRegion]) -> Tensor:
    """Lower bounds on `z_y - z_j` from the ball alone, `r ||(w_j - w_y) I_V||` (GloRo), `[batch, classes]`."""
    margins = logits.gather(1, labels[:, None]) - logits
    for term in last.rows:
        known = hidden[term.source]
        d = last.differences(term, labels) * flat(known.varying)[:, None]
        margins = margins - length(d, 2) * known.region.radius[:, None]
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return torch.where(own, torch.inf, margins)


def lmt_margins(logits: Tensor, labels: Tensor, radius: Tensor) -> Tensor:
    """Lower bounds on `z_y - z_j` from a ball of `radius` around all logits: `sqrt(2) r` (Tsuzuku et al. 2018).

    radius: `[batch]`, Lipschitz constant of the logits times eps.
    """
    margins = logits.gather(1, labels[:, None]) - logits - 2**0.5 * spread(radius, logits)
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return torch.where(own, torch.inf, margins)
