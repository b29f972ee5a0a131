"""Linear bounds of activations over a box and an ellipsoid: the step a backward pass takes at each (METHOD, section 7).

For a row `a`, any slopes `s` and any `lam >= 0`, over all z with `l <= z <= u` and `||w (z - c)|| <= r`,

    a . phi(z) >= g . z + h,   g = s a,
    h = sum over i of min over z in [l_i, u_i] of (a_i phi(z) - g_i z + lam w_i^2 / 2 (z - c_i)^2)  -  lam r^2 / 2.

Chiu et al. (SDP-CROWN, ICML 2025) have this for ReLU and a ball; the box, the weights and other functions are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Piecewise:
    """A continuous piecewise linear function of each entry: `slopes[i]` between `knots[i-1]` and `knots[i]`.

    function: its value. knots: in ascending order, may be infinite. slopes: one more than knots. Both broadcastable
    to `[*shape]`.
    """

    function: Callable[[Tensor], Tensor]
    knots: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    def __call__(self, z: Tensor) -> Tensor:
        """`phi(z)`."""
        return self.function(z)


@dataclass(frozen=True)
class Relaxation:
    """An activation, or a part of one, over the zone of its input, ready for rows that come from behind it.

    function: of each entry of the zone. enter: rows for the activation's output -> (rows for the entries of the zone,
    what passes by them linearly). leave: (rows for the zone's entries, what passed by) -> rows for the input.
    """

    function: Piecewise
    zone: Zone
    enter: Callable[[Tensor], tuple[Tensor, Any]] = lambda a: (a, None)
    leave: Callable[[Tensor, Any], Tensor] = lambda g, _: g

    @cached_property
    def _ends(self) -> tuple[Tensor, ...]:
        """Where the pieces of the function end inside the box, `[batch, 1, *shape]` each, both ends of the box included."""
        lower, upper = self.zone.lower[:, None], self.zone.upper[:, None]
        inner = [torch.minimum(torch.maximum(k.expand_as(lower), lower), upper) for k in self.function.knots]
        return (lower, *inner, upper)

    @cached_property
    def _values(self) -> tuple[Tensor, ...]:
        return tuple(self.function(e) for e in self._ends)

    @cached_property
    def chord(self) -> Tensor:
        """The slope between the ends of the box, `[batch, 1, *shape]`; the function's own where the box has no width."""
        return self._slope(0, len(self._ends) - 1)

    def _slope(self, i: int, j: int) -> Tensor:
        width = self._ends[j] - self._ends[i]
        slope = (self._values[j] - self._values[i]) / width
        return torch.where(torch.isfinite(slope) & (width > 0), slope, torch.zeros_like(slope))

    @cached_property
    def tightest(self) -> tuple[Tensor, Tensor]:
        """Slopes of the lines below phi and below -phi with the least area between, among chords of knots and ends."""
        candidates = [self._slope(i, j) for i, j in itertools.combinations(range(len(self._ends)), 2)]
        found = []
        for sign in (1.0, -1.0):
            least, best = torch.full_like(self.chord, torch.inf), self.chord
            for slope in candidates:
                gaps = [sign * (v - slope * e) for v, e in zip(self._values, self._ends, strict=True)]
                lowest = torch.stack(gaps).amin(0)
                area = sum((gaps[i] + gaps[i + 1] - 2 * lowest) * (self._ends[i + 1] - self._ends[i]) for i in range(len(gaps) - 1))
                better = area < least * (1 - 1e-6)
                least, best = torch.where(better, area, least), torch.where(better, slope, best)
            found.append(best)
        return found[0], found[1]

    def adaptive(self, a: Tensor) -> Tensor:
        """The tightest slopes for rows `a`, `[batch, rows, *shape]` (CROWN's, for a ReLU)."""
        above, below = self.tightest
        return torch.where(a >= 0, above, below)

    def constant(self, a: Tensor, slopes: Tensor, lam: Tensor) -> Tensor:
        """`h` for rows `a`, slopes and multipliers: `[batch, rows]`."""
        return self._minimum(a, slopes, lam)[0]

    def _minimum(self, a: Tensor, slopes: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """`h`, and `||weights (z - centre)||^2` at the minimiser."""
        c, w = self.zone.centre[:, None], self.zone.weights[:, None]
        g = slopes * a
        mu = spread2(lam, a) * w.square()
        best, where = None, None
        at_centre = self.function(c)
        for i, slope in enumerate(self.function.slopes):
            start, end = self._ends[i], self._ends[i + 1]
            k = a * slope - g
            curved = mu > 0
            free = torch.where(curved, -k / torch.where(curved, mu, 1.0), -torch.sign(k).detach() * torch.inf)
            free = torch.where(k == 0, 0.0, free)
            delta = torch.minimum(torch.maximum(free, start - c), end - c)
            # phi(c + delta) = phi(start) + slope (c + delta - start)
            value = a * (self._values[i] + slope * (c - start) - at_centre) + k * delta + mu / 2 * delta.square()
            value = torch.where(end > start, value, torch.full_like(value, torch.inf))
            if best is None:
                best, where = value, delta
            else:
                where = torch.where(value < best, delta, where)
                best = torch.minimum(value, best)
        pinned = self.zone.lower[:, None] >= self.zone.upper[:, None]
        at_lower = a * (self._values[0] - at_centre) - g * (self._ends[0] - c)
        best = torch.where(pinned, at_lower + mu / 2 * (self._ends[0] - c).square(), best)
        total = (best + a * at_centre - g * c).flatten(2).sum(-1)
        reached = (w * where).square().flatten(2).sum(-1)
        r2 = self.zone.radius[:, None].square()
        return total - torch.where(lam > 0, lam * r2 / 2, 0.0), reached

    def multipliers(self, a: Tensor, slopes: Tensor, iterations: int = 8) -> Tensor:
        """Good `lam` for rows and slopes, `[batch, rows]`."""
        c, w = self.zone.centre[:, None], self.zone.weights[:, None]
        r = self.zone.radius[:, None]
        k = torch.stack([(a * s - slopes * a).abs() for s in self.function.slopes]).amax(0)
        k = torch.where(w > 0, k / w, torch.zeros_like(k)) 
        lam = k.flatten(2).square().sum(-1).sqrt() / r
        best, least = torch.zeros_like(lam), self._minimum(a, slopes, torch.zeros_like(lam))[0]
        for _ in range(iterations):
            value, reached = self._minimum(a, slopes, lam)
            better = value > least
            best, least = torch.where(better, lam, best), torch.where(better, value, least)
            lam = lam * (reached.sqrt() / r).clamp(0.02, 50)
        return best


def spread2(per_row: Tensor, like: Tensor) -> Tensor:
    """`[batch, rows]` reshaped so that it broadcasts against `[batch, rows, *shape]`."""
    return per_row.reshape(*per_row.shape, *[1] * (like.ndim - 2))
