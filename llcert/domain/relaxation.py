"""Relaxations: linear lower bounds of activations over a box and an ellipsoid (docs/method.md, section 9.1).

For a row `a`, any slopes `s` and any `lam >= 0`, over all z with `l <= z <= u` and `||w (z - c)|| <= r`,

    a . phi(z) >= g . z + h,   g = s a,
    h = sum over i of min over z in [l_i, u_i] of (a_i phi(z) - g_i z + lam w_i^2 / 2 (z - c_i)^2)  -  lam r^2 / 2.

The backward pass (`llcert.bounds.backward`) passes activations by these. `lam = 0` is CROWN; Chiu et al. (SDP-CROWN,
ICML 2025) have the multiplier for ReLU and a ball, and the box, the weights and other functions are this project's.
Rows are `[batch, rows, *shape]`, several for each image; a zone is `[batch, *shape]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from llcert.domain.row_sharing import UNSHARED, RowSharing
from llcert.numerics.rounding import Rounding
from llcert.numerics.tensors import flat


@dataclass(frozen=True)
class Zone:
    """Box and ellipsoid of a pre-activation: `lower <= z <= upper`, `||weights (z - centre)|| <= radius`.

    centre, lower, upper, weights: `[batch, *shape]`, weights >= 0, 0 for entries that the ellipsoid does not bound.
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
    """An activation, or one of several that make it up, as a piecewise linear function of each entry of a zone.

    The entries may be other coordinates than those of the pre-activation, such as differences of pairs. enter: maps
    coefficients on the output to those on the function's values and those on a linear part beside it, None for none.
    leave: maps coefficients on the zone's entries and those on the linear part to coefficients on the input.
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
        """The function at each of `ends`."""
        return tuple(self._at(e) for e in self.ends)

    @cached_property
    def at_centre(self) -> Tensor:
        """The function at the centre, `[batch, 1, *shape]`."""
        return self._at(self.zone.centre[:, None])

    def _at(self, z: Tensor) -> Tensor:
        return self.phi.function(z[:, 0])[:, None]

    def _chord(self, i: int, j: int) -> Tensor:
        """The slope of the chord between two ends; 0 where they nearly coincide, so that its gradient is finite."""
        width = self.ends[j] - self.ends[i]
        apart = width > torch.finfo(width.dtype).tiny
        return torch.where(apart, (self.values[j] - self.values[i]) / torch.where(apart, width, 1.0), 0.0)

    @cached_property
    def tightest(self) -> tuple[Tensor, Tensor]:
        """The slopes of the lines below phi and above phi that leave the least area over the box, among its chords."""
        chords = [self._chord(i, j) for i, j in itertools.combinations(range(len(self.ends)), 2)]
        return self._least_area(chords, 1.0), self._least_area(chords, -1.0)

    def _least_area(self, chords: list[Tensor], sign: float) -> Tensor:
        """The slope with the least area between its line and phi; sign: 1 for the line below, -1 for that above."""
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
    def stable(self) -> tuple[Tensor, Tensor]:
        """Which entries are stable, their box in one piece, and the slope of that piece; `[batch, 1, *shape]` each."""
        lower, upper = self.ends[0], self.ends[-1]
        inside, slope = torch.zeros_like(lower, dtype=torch.bool), torch.zeros_like(lower)
        infinite = lower.new_full((), torch.inf)
        starts, ends = (-infinite, *self.phi.knots), (*self.phi.knots, infinite)
        for start, end, own in zip(starts, ends, self.phi.slopes, strict=True):
            here = (lower >= start) & (upper <= end)
            inside, slope = inside | here, torch.where(here, own, slope)
        return inside, slope

    def slopes(self, rows: Tensor) -> Tensor:
        """Slopes in closed form, `[batch, rows, *shape]`: that of the piece for stable entries, for others the tightest
        over the box, which are CROWN's for a ReLU."""
        (stable, own), (below, above) = self.stable, self.tightest
        return torch.where(stable, own, torch.where(rows >= 0, below, above))

    def on_box(self, lower: Tensor, upper: Tensor) -> Relaxation:
        """The relaxation, its box intersected with another, for branch and bound; lower, upper: `[batch, *shape]`."""
        zone = self.zone
        inside = torch.maximum(zone.lower, lower), torch.minimum(zone.upper, upper)
        return replace(self, zone=Zone(zone.centre, *inside, zone.weights, zone.radius))

    def losses(self, rows: Tensor, slopes: Tensor, lam: Tensor) -> Tensor:
        """By how much each entry lowers the bound below the value at the centre, `[batch, rows, *shape]`; 0 for stable
        ones. Branch and bound splits the entry with the largest."""
        least, _ = _Minimum.every(self, rows, slopes).entries(lam)
        return torch.where(self.stable[0], 0.0, least.neg().clamp(min=0))

    def knot(self) -> Tensor:
        """Where branch and bound splits each entry: the knot in its box nearest to the centre, `[batch, *shape]`."""
        lower, upper, c = self.zone.lower, self.zone.upper, self.zone.centre
        best, nearest = c.clone(), torch.full_like(c, torch.inf)
        for knot in self.phi.knots:
            away = torch.where((knot > lower) & (knot < upper), (knot - c).abs(), torch.inf)
            best, nearest = torch.where(away < nearest, knot, best), torch.minimum(nearest, away)
        return best

    def constant(
        self,
        rows: Tensor,
        slopes: Tensor,
        lam: Tensor,
        rounding: Rounding | None = None,
        sharing: RowSharing = UNSHARED,
        known: Tensor | None = None,
    ) -> Tensor:
        """`h`, a lower bound for any slopes and multipliers `lam >= 0`, `[batch, bounds]`.

        rounding: of the arithmetic; where it is given, a bound of all rounding errors is subtracted. sharing: of rows.
        known: `h` before that subtraction, where `multipliers` has computed it for these rows, slopes and lam.
        """
        value = _Minimum.of(self, rows, slopes, sharing).least(lam)[0] if known is None else known
        return value if rounding is None else value - self._rounding_error(rows, slopes, lam, rounding, sharing)

    def multipliers(
        self, rows: Tensor, slopes: Tensor, iterations: int = 8, sharing: RowSharing = UNSHARED
    ) -> tuple[Tensor, Tensor]:
        """Good multipliers for rows and slopes, by a fixed-point iteration for `||w (z - c)|| = r`, and `h` with them.

        `[batch, bounds]` each.
        """
        weights, radius = self.zone.weights[:, None], self.zone.radius[:, None]
        steepest = torch.stack([(rows * (s - slopes)).abs() for s in self.phi.slopes]).amax(0)
        pull = torch.where(weights > 0, steepest / torch.where(weights > 0, weights, 1.0), 0.0)
        lam = sharing.sums(pull.square()).sqrt() / radius
        lam = torch.where(torch.isfinite(lam), lam, 0.0)
        minimum = _Minimum.of(self, rows, slopes, sharing)
        best = torch.zeros_like(lam)
        most = minimum.least(best)[0]
        for _ in range(iterations):
            value, reach = minimum.least(lam)
            better = value > most
            best, most = torch.where(better, lam, best), torch.where(better, value, most)
            lam = lam * (reach / radius).clamp(0.02, 50)
        return best, most

    def pieces(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each piece: its slope, the ends of its part of the box relative to the centre, and the value of its line
        at the centre minus that of the function. `[batch, 1, *shape]` each, the slope broadcastable to it."""
        c = self.zone.centre[:, None]
        for i, slope in enumerate(self.phi.slopes):
            start, end = self.ends[i] - c, self.ends[i + 1] - c
            yield slope, start, end, self.values[i] - slope * start - self.at_centre

    def _rounding_error(
        self, rows: Tensor, slopes: Tensor, lam: Tensor, rounding: Rounding, sharing: RowSharing
    ) -> Tensor:
        """Bounds of the rounding errors of `h`, `[batch, bounds]` (docs/method.md, section 12, lemma 6).

        With W the width of the box, the centre in it, every number an entry's minimum is made of is at most
        `|a| (|phi| + S W) + |g| (|c| + W) + mu W^2`, S the steepest slope; a minimiser that is off by the rounding of
        its slope k costs at most that rounding times W.
        """
        c, g = self.zone.centre[:, None].abs(), (slopes * rows).abs()
        mu = sharing.expanded(lam, rows) * self.zone.weights[:, None].square()
        upper, lower = (
            torch.maximum(self.zone.upper, self.zone.centre),
            torch.minimum(self.zone.lower, self.zone.centre),
        )
        width = (upper - lower)[:, None]
        steepest = torch.stack([s.abs().expand_as(self.zone.centre) for s in self.phi.slopes]).amax(0)[:, None]
        size = torch.stack([v.abs() for v in (*self.values, self.at_centre)]).amax(0)
        entries = rows.abs() * (size + steepest * width) + g * (c + width) + mu * width * width
        radius = self.zone.radius[:, None]
        ball = torch.where(lam > 0, lam * radius * radius, 0.0)  # in this order: the square of a radius may vanish
        lost = torch.where(lam > 0, 2 * rounding.tiny * radius, 0.0)
        count = entries[0].numel() + 64
        paid = rounding.gamma(count) * sharing.sums(entries) + rounding.gamma(16) * ball
        widest = 1 + flat(width).amax(1).square()[:, None]
        return rounding.above(paid + lost, count) + 64 * count * rounding.tiny * widest


@dataclass(frozen=True)
class _Minimum:
    """The constant `h` as a function of the multipliers: the sum over entries of the minimum of each.

    Left out are entries whose minimum is zero for every multiplier: stable ones with the slope of their piece and the
    centre in their box. rows, sharing: of the entries that are left. weights: of the ellipsoid, `[batch, 1, entries]`.
    lines: for each piece, the ends of its part of the box relative to the centre, `[batch, 1, entries]`, and k, e,
    `[batch, rows, entries]`, of `a phi(z) - g z = k (z - c) + e` there, less the value at the centre. at_centre: the
    sum of these values over all entries, `[batch, bounds]`. radius: `[batch, 1]`.
    """

    rows: Tensor
    sharing: RowSharing
    weights: Tensor
    lines: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]
    at_centre: Tensor
    radius: Tensor

    @staticmethod
    def of(relaxation: Relaxation, rows: Tensor, slopes: Tensor, sharing: RowSharing) -> _Minimum:
        """Over the entries of which the minimum is not zero for all images and rows."""
        (stable, own), zone = relaxation.stable, relaxation.zone
        inside = ((zone.lower <= zone.centre) & (zone.centre <= zone.upper))[:, None]
        idle = flat(stable & inside & (slopes == own), 2).all(1).all(0)
        if not bool(idle.any()):
            return _Minimum.every(relaxation, rows, slopes, sharing)
        part = torch.nonzero(~idle)[:, 0]
        return _Minimum._over(
            relaxation, rows, slopes, sharing.restricted(part), sharing, lambda x: flat(x, 2)[..., part]
        )

    @staticmethod
    def every(relaxation: Relaxation, rows: Tensor, slopes: Tensor, sharing: RowSharing = UNSHARED) -> _Minimum:
        """Over all entries, in their own shape."""
        return _Minimum._over(relaxation, rows, slopes, sharing, sharing, lambda x: x)

    @staticmethod
    def _over(
        relaxation: Relaxation,
        rows: Tensor,
        slopes: Tensor,
        inner: RowSharing,
        sharing: RowSharing,
        chosen: Callable[[Tensor], Tensor],
    ) -> _Minimum:
        """Over chosen entries; inner: the sharing of these, sharing: of all."""
        c, g, zone = relaxation.zone.centre[:, None], slopes * rows, relaxation.zone
        a, ga = chosen(rows), chosen(g)
        lines = []
        for slope, start, end, offset in relaxation.pieces():
            steep = chosen(slope.expand_as(c))
            lines.append((chosen(start), chosen(end), a * steep - ga, a * chosen(offset)))
        return _Minimum(
            rows=a,
            sharing=inner,
            weights=chosen(zone.weights[:, None]),
            lines=tuple(lines),
            at_centre=sharing.sums(rows * relaxation.at_centre - g * c),
            radius=zone.radius[:, None],
        )

    def least(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """`h`, and `||w (z - c)||` at the minimiser, `[batch, bounds]` each."""
        least, moved = self.entries(lam)
        total = self.at_centre + self.sharing.sums(least)
        reach = self.sharing.sums((self.weights * moved).square()).sqrt()
        return total - torch.where(lam > 0, lam * self.radius * self.radius / 2, 0.0), reach

    def entries(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """The minimum of each entry minus its value at the centre, and the minimiser `z - c`.

        The minimiser has no gradient, because the minimum does not change with it.
        """
        mu = self.sharing.expanded(lam, self.rows) * self.weights.square()
        curved, half = torch.where(mu > 0, mu, torch.finfo(mu.dtype).tiny).detach(), mu / 2
        least, moved = None, None
        for start, end, k, e in self.lines:
            delta = torch.minimum(torch.maximum(k.detach().neg() / curved, start), end)
            value = e + (k + half * delta) * delta
            if least is None or moved is None:
                least, moved = value, delta
            else:
                moved = torch.where(value < least, delta, moved)
                least = torch.minimum(value, least)
        assert least is not None
        assert moved is not None
        return least, moved
