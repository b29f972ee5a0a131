"""Linear bounds of activations over a box and an ellipsoid: the step a backward pass takes at each (METHOD, section 7).

For a row `a`, any slopes `s` and any `lam >= 0`, over all z with `l <= z <= u` and `||w (z - c)|| <= r`,

    a . phi(z) >= g . z + h,   g = s a,
    h = sum over i of min over z in [l_i, u_i] of (a_i phi(z) - g_i z + lam w_i^2 / 2 (z - c_i)^2)  -  lam r^2 / 2.

Chiu et al. (SDP-CROWN, ICML 2025) have this for ReLU and a ball; the box, the weights and other functions are ours.
Rows are `[batch, rows, *shape]`, several for each image; a zone is `[batch, *shape]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.rounding import Rounding


@dataclass(frozen=True)
class Zone:
    """Box and ellipsoid of a value before an activation: `lower <= z <= upper`, `||weights (z - centre)|| <= radius`.

    centre, lower, upper, weights: `[batch, *shape]`, weights >= 0, 0 for entries the ellipsoid says nothing of.
    radius: `[batch]`, infinite where unknown.
    """

    centre: Tensor
    lower: Tensor
    upper: Tensor
    weights: Tensor
    radius: Tensor

    def select(self, images: Tensor) -> Zone:
        """The zones of some images; images: mask or index."""
        return Zone(*(t[images] for t in (self.centre, self.lower, self.upper, self.weights, self.radius)))


@dataclass(frozen=True)
class Piecewise:
    """A continuous piecewise linear function of each entry: `slopes[i]` between `knots[i-1]` and `knots[i]`.

    knots: ascending, may be infinite. slopes: one more than knots. Both broadcastable to `[*shape]`.
    """

    function: Callable[[Tensor], Tensor]
    knots: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]


def _same(rows: Tensor) -> tuple[Tensor, None]:
    return rows, None


def _back(rows: Tensor, _: Tensor | None) -> Tensor:
    return rows


@dataclass(frozen=True)
class Relaxation:
    """One step of an activation: a function of each entry of a zone, maybe in other coordinates than its value's.

    enter: rows for the step's output -> (rows for the function's values, what passes the function by).
    leave: (rows for the zone's entries, what passed by) -> rows for the step's input.
    """

    phi: Piecewise
    zone: Zone
    enter: Callable[[Tensor], tuple[Tensor, Tensor | None]] = _same
    leave: Callable[[Tensor, Tensor | None], Tensor] = _back

    @cached_property
    def ends(self) -> tuple[Tensor, ...]:
        """The box's ends and the knots between them, ascending, `[batch, 1, *shape]` each."""
        lower, upper = self.zone.lower[:, None], self.zone.upper[:, None]
        inner = [torch.minimum(torch.maximum(k.to(lower).expand_as(lower), lower), upper) for k in self.phi.knots]
        return (lower, *inner, upper)

    @cached_property
    def values(self) -> tuple[Tensor, ...]:
        """The function at the ends."""
        return tuple(self._at(e) for e in self.ends)

    def _at(self, z: Tensor) -> Tensor:
        return self.phi.function(z[:, 0])[:, None]

    def _chord(self, i: int, j: int) -> Tensor:
        """The slope between two ends; 0 where they coincide."""
        width = self.ends[j] - self.ends[i]
        return torch.where(width > 0, (self.values[j] - self.values[i]) / width, 0.0)

    @cached_property
    def tightest(self) -> tuple[Tensor, Tensor]:
        """Slopes of the lines below phi and below -phi that leave the least area over the box, among its chords."""
        chords = [self._chord(i, j) for i, j in itertools.combinations(range(len(self.ends)), 2)]
        return self._least_area(chords, 1.0), self._least_area(chords, -1.0)

    def _least_area(self, chords: list[Tensor], sign: float) -> Tensor:
        best = torch.zeros_like(chords[0])
        least = torch.full_like(best, torch.inf)
        for slope in chords:
            above = torch.stack([sign * (v - slope * e) for v, e in zip(self.values, self.ends, strict=True)])
            above = above - above.amin(0)
            widths = torch.stack([b - a for a, b in itertools.pairwise(self.ends)])
            area = ((above[1:] + above[:-1]) * widths).sum(0)
            better = area < least * (1 - 1e-6)
            best, least = torch.where(better, slope, best), torch.where(better, area, least)
        return best

    @cached_property
    def settled(self) -> tuple[Tensor, Tensor]:
        """Entries whose box lies in one piece, and the slope of that piece there: `[batch, 1, *shape]` each."""
        lower, upper = self.ends[0], self.ends[-1]
        inside, slope = torch.zeros_like(lower, dtype=torch.bool), torch.zeros_like(lower)
        infinite = lower.new_full((), torch.inf)
        starts, ends = (-infinite, *self.phi.knots), (*self.phi.knots, infinite)
        for start, end, own in zip(starts, ends, self.phi.slopes, strict=True):
            here = (lower >= start) & (upper <= end)
            inside, slope = inside | here, torch.where(here, own, slope)
        return inside, slope

    def slopes(self, rows: Tensor) -> Tensor:
        """The function's own slope for settled entries, elsewhere the tightest by the box (CROWN's for a ReLU)."""
        (settled, own), (below, above) = self.settled, self.tightest
        return torch.where(settled, own, torch.where(rows >= 0, below, above))

    def constant(self, rows: Tensor, slopes: Tensor, lam: Tensor, rounding: Rounding | None = None) -> Tensor:
        """`h`, a lower bound for any slopes and multipliers `lam >= 0`, `[batch, rows]`.

        rounding: of the arithmetic this runs in, paid for in full where it is given.
        """
        value = self._least(rows, slopes, lam)[0]
        return value if rounding is None else value - self._slack(rows, slopes, lam, rounding)

    def multipliers(self, rows: Tensor, slopes: Tensor, iterations: int = 8) -> Tensor:
        """Good `lam` for these rows and slopes, `[batch, rows]`, by a fixed-point iteration for `||w (z - c)|| = r`."""
        weights, radius = self.zone.weights[:, None], self.zone.radius[:, None]
        steepest = torch.stack([(rows * (s - slopes)).abs() for s in self.phi.slopes]).amax(0)
        pull = torch.where(weights > 0, steepest / torch.where(weights > 0, weights, 1.0), 0.0)
        lam = _norm(pull) / radius
        lam = torch.where(torch.isfinite(lam), lam, 0.0)
        best = torch.zeros_like(lam)
        most = self._least(rows, slopes, best)[0]
        for _ in range(iterations):
            value, moved = self._least(rows, slopes, lam)
            better = value > most
            best, most = torch.where(better, lam, best), torch.where(better, value, most)
            lam = lam * (_norm(weights * moved) / radius).clamp(0.02, 50)
        return best

    def _least(self, rows: Tensor, slopes: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """`h`, and the `z - c` where it is taken."""
        c, g, mu = self.zone.centre[:, None], slopes * rows, self._curvature(lam)
        at_centre = self._at(c)
        least, moved = torch.full_like(rows, torch.inf), torch.zeros_like(rows)
        for i, slope in enumerate(self.phi.slopes):
            start, end = self.ends[i] - c, self.ends[i + 1] - c
            k = rows * slope - g
            delta = torch.minimum(torch.maximum(_stationary(k, mu), start), end)
            value = rows * (self.values[i] - slope * start - at_centre) + k * delta + mu / 2 * delta * delta
            better = (value < least) | value.isnan()
            least, moved = torch.where(better, value, least), torch.where(better, delta, moved)
        total = (least + rows * at_centre - g * c).flatten(2).sum(-1)
        radius = self.zone.radius[:, None]
        return total - torch.where(lam > 0, lam * radius * radius / 2, 0.0), moved

    def _curvature(self, lam: Tensor) -> Tensor:
        weights = self.zone.weights[:, None]
        return lam.reshape(*lam.shape, *[1] * (weights.ndim - 2)) * weights.square()

    def _slack(self, rows: Tensor, slopes: Tensor, lam: Tensor, rounding: Rounding) -> Tensor:
        """What rounding may have added to `h` (docs/soundness.md, lemma 6).

        With W the width of the box, every number an entry's minimum is made of is at most `|a| (|phi| + S W) +
        |g| (|c| + W) + mu W^2`, S the steepest slope; a minimiser that is off by the rounding of its slope k costs at
        most that rounding times W.
        """
        c, g, mu = self.zone.centre[:, None].abs(), (slopes * rows).abs(), self._curvature(lam)
        width = (self.zone.upper - self.zone.lower)[:, None]
        steepest = torch.stack([s.abs().expand_as(self.zone.centre) for s in self.phi.slopes]).amax(0)[:, None]
        size = torch.stack([v.abs() for v in self.values]).amax(0)
        entries = rows.abs() * (size + steepest * width) + g * (c + width) + mu * width * width
        flat = entries.flatten(2)
        radius = self.zone.radius[:, None]
        ball = torch.where(lam > 0, lam * radius * radius, 0.0)  # in this order: the square of a radius may vanish
        lost = torch.where(lam > 0, 2 * rounding.tiny * radius, 0.0)
        count = flat.shape[-1] + 64
        paid = rounding.gamma(count) * flat.sum(-1) + rounding.gamma(16) * ball
        return rounding.above(paid + lost, count) + 64 * count * rounding.tiny


def _stationary(k: Tensor, mu: Tensor) -> Tensor:
    """Where `k d + mu d^2 / 2` is least on the whole line, infinite where it has no curvature."""
    curved = mu > 0
    return torch.where(curved, -k / torch.where(curved, mu, 1.0), torch.where(k == 0, 0.0, -torch.sign(k) * torch.inf))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(2), dim=-1)
