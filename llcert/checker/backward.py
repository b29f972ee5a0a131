"""Rules 7 and 8: lower bounds of linear functions of values, by a backward pass through the network.

A row is the coefficient vector of a linear function of one cut's value; rows are `[rows, entries]`, and all of them
start at one cut and stop at one cut. On its way a row passes affine nodes by their transpose, and activations by linear
relaxations over box and ellipsoid, of the CROWN kind: slopes and multipliers are the certificate's choice, and every
choice gives a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from llcert.checker.activations import LINE, Activation, Leaky, MaxMin, Piece
from llcert.checker.blocks import Block
from llcert.checker.known import Known, Roundoff, Zone
from llcert.checker.numbers import (
    SMALLEST,
    TINY,
    U,
    Vector,
    above,
    down,
    gamma,
    least_product,
    least_sum,
    least_sums,
    length,
    lengths,
    up,
)


class Choices(Protocol):
    """The relaxations that a certificate chooses for some rows. No choice can make a bound false."""

    def slopes(self, cut: int, step: int, rows: Vector) -> Vector:
        """The slopes for the rows that reach a step of the activation at `cut`, `[rows, entries]`."""
        ...

    def multipliers(self, cut: int, step: int) -> Vector:
        """The multiplier of the ellipsoid of that step for each row, `[rows]`, >= 0."""
        ...

    def end(self, cut: int) -> Vector | None:
        """The multiplier of the ball of a cut where rows stop, `[rows]`, >= 0; None to use the ball alone, without the
        box, which is possible at the input."""
        ...

    def zone(self, cut: int, step: int, zone: Zone) -> Zone:
        """The box and ellipsoid over which rows pass a step; `zone` is that of the whole ball of the image."""
        ...


def lower_bounds(
    blocks: Mapping[int, Block], known: Known, rows: dict[int, Vector], terms: list[Vector], stop: int, choices: Choices
) -> Vector:
    """Lower bounds of `sum over cuts of rows . h + sum of terms` over the ball of the image, `[rows]`; NaN or -inf
    where there is none.

    They hold for the real network, and for deployed ones where `known` does. rows: by the cut on whose value they act;
    emptied. terms: constants, `[rows]` each, to which the constants and the rounding errors of the pass are added.
    """
    while (k := max(rows)) > stop:
        row, block, z = rows.pop(k), blocks[k], known.pre_activation[k]
        if block.activation is not None:
            terms.append(-most_product(row, z.activation_error))
            row, gained = _through_activation(block.activation, row, k, z.zone, choices)
            terms.append(gained)
        through_body(block, z.roundoff, row, rows, terms, known)
    terms += [_at_stop(s, row, known, choices) for s, row in rows.items()]
    return np.asarray(down(least_sum(np.stack(terms, -1))))


def through_body(
    block: Block, roundoff: Roundoff, row: Vector, rows: dict[int, Vector], terms: list[Vector], known: Known
) -> None:
    """Step 2 of rule 7: turns rows on the value of a block before its activation into rows on its sources.

    row: `[rows, entries]`. rows: of the sources, to which the new ones are added. terms: constants of the rows, to
    which the offset and the rounding errors of the body are added.
    """
    terms.append(-most_product(row, roundoff.deployed))
    further, constant = block.transposed(row)
    terms += [constant, -_most(gamma(2 * block.backwards) * most_product(row, roundoff.size))]
    terms.append(np.full(len(row), -_most(block.backwards * SMALLEST * roundoff.total)))
    for s, part in further.items():
        if s in rows:  # one more rounding, of the sum
            part = rows[s] + part
            terms.append(-_most(2 * U * most_product(part, known.cuts[s].size)))
        rows[s] = part


def most_product(rows: Vector, size: Vector) -> Vector:
    """Upper bounds of `|row| . size` of each row, `[rows]`."""
    return np.asarray(above(np.abs(rows) @ size, size.size + 2))


def _most(value: Vector | float) -> Vector:
    """An upper bound of a product of numbers >= 0."""
    return np.asarray(above(value, 2))


def steps(phi: Activation, zone: Zone) -> tuple[Zone, ...]:
    """Rule 8: the box and ellipsoid of every step of an activation, the first step first. zone: of its input.

    A MaxMin is the sort of each pair (a, b), by a step on `|a - b|`, then a clamp if it has a finite threshold.
    """
    if not isinstance(phi, MaxMin):
        return (zone,)
    return (_difference(phi, zone), _sorted(phi, zone))[: 2 if phi.clipped else 1]


def _through_activation(phi: Activation, row: Vector, k: int, zone: Zone, choices: Choices) -> tuple[Vector, Vector]:
    """Step 1 of rule 7: rows g and constants h with `row . phi(z) >= g . z + h` over the zone of z; k is its number."""
    zones = [choices.zone(k, i, z) for i, z in enumerate(steps(phi, zone))]
    if not isinstance(phi, MaxMin):
        g = choices.slopes(k, 0, row) * row
        return g, _constant(phi.pieces(), row, g, zones[0], choices.multipliers(k, 0))
    gained = np.zeros(len(row))
    if phi.clipped:
        g = choices.slopes(k, 1, row) * row
        gained = _constant(phi.sorted_clamp().pieces(), row, g, zones[1], choices.multipliers(k, 1))
        row = g
    g, more = _unsorted(phi, row, k, zones[0], zone, choices)
    return g, np.asarray(down(gained + more))


def _sorted(phi: MaxMin, zone: Zone) -> Zone:
    """The zone of the sorted pairs. Sorting is a permutation where the order is known, and nonexpansive elsewhere."""
    a, b = phi.split(zone.weights)
    a_first, b_first = phi.order(zone.lower, zone.upper)
    smaller = np.minimum(a, b)
    weights = phi.merge(
        np.where(a_first, a, np.where(b_first, b, smaller)), np.where(a_first, b, np.where(b_first, a, smaller))
    )
    centre, lower, upper = (phi.merge(*phi.sort(z)) for z in (zone.centre, zone.lower, zone.upper))
    return Zone(centre, lower, upper, weights, zone.radius)


def _difference(phi: MaxMin, zone: Zone) -> Zone:
    """The zone of `t = a - b`. Its centre is rounded by at most U |t|, by which the radius is larger."""
    (ca, cb), (la, lb), (ua, ub) = (phi.split(z) for z in (zone.centre, zone.lower, zone.upper))
    weights = np.minimum(*phi.split(zone.weights)) * (math.sqrt(0.5) * (1 - 4 * U))
    centre = ca - cb
    radius = up(zone.radius + length(above(weights * np.abs(centre) * 2 * U, 4)))
    return Zone(centre, down(la - ub), up(ua - lb), weights, radius)


def _unsorted(
    phi: MaxMin, row: Vector, k: int, difference: Zone, zone: Zone, choices: Choices
) -> tuple[Vector, Vector]:
    """Step 0 of rule 8, the sort: rows and constants before it, for rows on the larger (p) and the smaller (q) of
    pairs.

    `a_p p + a_q q` is linear in `a + b` and in |t|, `t = a - b`. difference: the zone of t. zone: of the pairs.
    """
    p, q = row[:, phi.first], row[:, phi.second]
    mean, rest = p / 2 + q / 2, p / 2 - q / 2
    g = choices.slopes(k, 0, rest) * rest
    kink = Leaky(np.full(phi.first.size, -1.0))
    gained = _constant(kink.pieces(), rest, g, difference, choices.multipliers(k, 0))
    reach = np.add(*phi.split(np.maximum(np.abs(zone.lower), np.abs(zone.upper)))) + TINY
    lost = gamma(16) * most_product(np.abs(p) + np.abs(q) + np.abs(g) + TINY, reach)
    back = np.empty_like(row)
    back[:, phi.first], back[:, phi.second] = mean + g, mean - g
    return back, np.asarray(down(gained - _most(lost)))


def _constant(pieces: Iterable[Piece], row: Vector, g: Vector, zone: Zone, lam: Vector) -> Vector:
    """Lower bounds of `row . phi(z) - g . z` over box and ellipsoid, `[rows]`, by the multipliers lam, `[rows]`.

    An entry at which row and g are 0 adds the least value of `lam w^2 / 2 (z - c)^2`, which is 0 where the box contains
    the centre c; such entries are left out.
    """
    curvature = lam[:, None] * zone.weights * zone.weights * (1 - 16 * U)
    curvature = np.where(curvature > 2.0**-800, curvature, 0.0)
    held = np.nonzero((row != 0) | (zone.lower > zone.centre) | (zone.upper < zone.centre))

    def among(values: Any) -> Any:
        return np.broadcast_to(values, row.shape)[held] if np.ndim(values) else values

    chosen = [(among(start), among(end), among(slope), among(height)) for start, end, slope, height in pieces]
    box = (among(zone.centre), among(zone.lower), among(zone.upper))
    least = _least(chosen, row[held], g[held], curvature[held], box)
    found = least_sums(least, held[0], row.shape)
    return np.asarray(down(found - _most(lam * zone.radius * zone.radius / 2)))


def _least(
    pieces: Iterable[Piece], a: Vector, g: Vector, curvature: Vector, zone: tuple[Vector, Vector, Vector]
) -> Vector:
    """Lower bounds of `F(z) = a phi(z) - g z + curvature / 2 (z - c)^2` over [lower, upper], entrywise.

    On one piece F is convex, so it lies above its tangent at any point of the piece, and the tangent is least at an
    end. The point is chosen near the minimum of F, but the bound holds for any, and for a centre c outside the box.
    zone: the centre, lower and upper. Each of the terms whose sizes are added up for the rounding has at most 16
    roundings.
    """
    centre, lower, upper = zone
    best = np.full_like(a, np.inf)
    for start, end, slope, height in pieces:
        p, q = np.maximum(lower, start), np.minimum(upper, end)
        steep = a * slope - g
        curved = curvature > 0
        z = np.where(curved, centre - steep / np.where(curved, curvature, 1.0), p)
        z = np.minimum(np.maximum(z, p), q)
        d, value = z - centre, slope * z + height
        tangent = steep + curvature * d
        bend = curvature * d * d / 2
        found = a * value - g * z + bend + np.minimum(tangent * (p - z), tangent * (q - z))
        lean = np.abs(a * slope) + np.abs(g) + curvature * np.abs(d)
        size = np.abs(a * value) + np.abs(g * z) + bend + lean * (q - p)
        pad = (1 + np.abs(a) + np.abs(d) + (q - p)) * TINY
        best = np.minimum(best, np.where(p <= q, found - gamma(64) * (size + pad), np.inf))
    return best


def _at_stop(s: int, row: Vector, known: Known, choices: Choices) -> Vector:
    """Lower bounds of `row . h` over the box and ball of cut s, or over the ball of the input alone, `[rows]`."""
    cut, lam = known.cuts[s], choices.end(s)
    if lam is None:
        return np.asarray(down(least_product(row, cut.centre) - _most(lengths(row) * cut.after)))
    zone = Zone(cut.centre, cut.lower, cut.upper, np.ones(row.shape[1]), cut.after)
    return _constant(LINE, row, np.zeros_like(row), zone, lam)
