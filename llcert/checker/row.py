"""Rules 7 and 8: lower bounds of linear functions of a value, by taking rows backwards through the network.

Rows are `[rows, entries]`; all of them start at one cut and stop at one cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from llcert.checker.activations import LINE, Activation, Leaky, MaxMin, Piece
from llcert.checker.blocks import Block
from llcert.checker.known import Known, Passage, Zone
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
    """What a certificate chooses for some rows; every choice gives a bound."""

    def slopes(self, cut: int, step: int, rows: Vector) -> Vector:
        """The slopes of a step of the activation `cut` for the rows that reach it, `[rows, entries]`."""
        ...

    def multipliers(self, cut: int, step: int) -> Vector:
        """The multiplier of each row at such a step, `[rows]`, >= 0."""
        ...

    def end(self, cut: int) -> Vector | None:
        """The multiplier of each row where it stops, `[rows]`, >= 0; None for the ball of the input alone."""
        ...

    def zone(self, cut: int, step: int, zone: Zone) -> Zone:
        """The zone over which rows pass a step, given that of the whole ball."""
        ...


def descended(
    blocks: Mapping[int, Block], known: Known, rows: dict[int, Vector], terms: list[Vector], stop: int, choices: Choices
) -> Vector:
    """Lower bounds of `sum over cuts of rows . h`, plus the sum of the terms, over the ball, `[rows]`.

    NaN or -inf where there is none. Of the real network, and of deployed ones where what is known is. rows: of each
    cut that has any; emptied. terms: `[rows]` each; what is lost on the way is added to them.
    """
    while (k := max(rows)) > stop:
        row, block, before = rows.pop(k), blocks[k], known.before[k]
        if block.activation is not None:
            terms.append(-most_product(row, before.own))
            row, gained = _through(block.activation, row, k, before.zone, choices)
            terms.append(gained)
        pass_body(block, before.passage, row, rows, terms, known)
    terms += [_end(s, row, known, choices) for s, row in rows.items()]
    return np.asarray(down(least_sum(np.stack(terms, -1))))


def pass_body(
    block: Block, passage: Passage, row: Vector, rows: dict[int, Vector], terms: list[Vector], known: Known
) -> None:
    """Takes rows on the value of a block before its activation to those of its sources, to which they are added."""
    terms.append(-most_product(row, passage.lost))
    further, constant = block.transposed(row)
    terms += [constant, -_most(gamma(2 * block.backwards) * most_product(row, passage.size))]
    terms.append(np.full(len(row), -_most(block.backwards * SMALLEST * passage.total)))
    for s, part in further.items():
        if s in rows:  # one more rounding, of the sum
            part = rows[s] + part
            terms.append(-_most(2 * U * most_product(part, known.cuts[s].size)))
        rows[s] = part


def most_product(rows: Vector, size: Vector) -> Vector:
    """Upper bounds of `|row| . size`."""
    return np.asarray(above(np.abs(rows) @ size, size.size + 2))


def _most(value: Vector | float) -> Vector:
    return np.asarray(above(value, 2))


def steps(phi: Activation, zone: Zone) -> tuple[Zone, ...]:
    """The zone of every step of an activation, the first step first. zone: of what it reads.

    A MaxMin is sorted, by the step of `|a - b|` for every pair, and then clamped if it has a threshold.
    """
    if not isinstance(phi, MaxMin):
        return (zone,)
    return (_difference(phi, zone), _sorted(phi, zone))[: 2 if phi.clipped else 1]


def _through(phi: Activation, row: Vector, k: int, zone: Zone, choices: Choices) -> tuple[Vector, Vector]:
    """Rows for the value before an activation and constants: `row . phi(z) >= result . z + constant`."""
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
    """The zone of the sorted pairs: a permutation where their order is known, a nonexpansive map elsewhere."""
    a, b = phi.split(zone.weights)
    a_first, b_first = phi.order(zone.lower, zone.upper)
    smaller = np.minimum(a, b)
    weights = phi.merge(
        np.where(a_first, a, np.where(b_first, b, smaller)), np.where(a_first, b, np.where(b_first, a, smaller))
    )
    centre, lower, upper = (phi.merge(*phi.sort(z)) for z in (zone.centre, zone.lower, zone.upper))
    return Zone(centre, lower, upper, weights, zone.radius)


def _difference(phi: MaxMin, zone: Zone) -> Zone:
    """The zone of `t = a - b`. Its centre is rounded, by at most U |t|: the radius is that much larger."""
    (ca, cb), (la, lb), (ua, ub) = (phi.split(z) for z in (zone.centre, zone.lower, zone.upper))
    weights = np.minimum(*phi.split(zone.weights)) * (math.sqrt(0.5) * (1 - 4 * U))
    centre = ca - cb
    radius = up(zone.radius + length(above(weights * np.abs(centre) * 2 * U, 4)))
    return Zone(centre, down(la - ub), up(ua - lb), weights, radius)


def _unsorted(
    phi: MaxMin, row: Vector, k: int, difference: Zone, zone: Zone, choices: Choices
) -> tuple[Vector, Vector]:
    """The step of the sort itself: `a_p p + a_q q` is linear in `a + b` and in |t|, `t = a - b`."""
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
    """Lower bounds of `row . phi(z) - g . z` over box and ellipsoid, by the multipliers lam, `[rows]`.

    Entries of a row that are 0, and so is g, add nothing below 0: at the centre, if the box has it, they add 0.
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
    """Lower bounds of `min over z of F(z) = a phi(z) - g z + curvature / 2 (z - c)^2` over [lower, upper], entrywise.

    On one piece F is convex: it lies above its tangent at any point, whose least value is at an end. The point is
    where F is least, as far as floating point can tell; the bound does not depend on that, nor on a centre inside the
    box. At most 16 roundings go into each of the terms whose sizes are added up.
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


def _end(s: int, row: Vector, known: Known, choices: Choices) -> Vector:
    """Lower bounds of `row . h` over what is known of a cut: its box and ball, or the input's ball alone."""
    cut, lam = known.cuts[s], choices.end(s)
    if lam is None:
        return np.asarray(down(least_product(row, cut.centre) - _most(lengths(row) * cut.after)))
    zone = Zone(cut.centre, cut.lower, cut.upper, np.ones(row.shape[1]), cut.after)
    return _constant(LINE, row, np.zeros_like(row), zone, lam)
