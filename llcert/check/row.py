"""Rules 7 and 8: a lower bound on a margin, by taking a row backwards through the network."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from llcert.check.activations import LINE, Activation, Leaky, MaxMin, Piece
from llcert.check.files import Arrays, require
from llcert.check.forward import Before, Known
from llcert.check.graph import Graph
from llcert.check.numbers import SMALLEST, TINY, U, Vector, above, down, gamma, least_product, least_sum, length, up


def margin(graph: Graph, image: Arrays, known: Known, *, label: int, other: int) -> float:
    """A lower bound of `f(x')_label - f(x')_other` over the ball; NaN or -inf where there is none.

    Of the real network, and of deployed ones where what is known is.
    """
    last = len(graph.nodes) - 1
    start = np.zeros(graph.nodes[last].size)
    start[label], start[other] = 1.0, -1.0
    rows, terms = {last: start}, list[float]()
    stop = int(image.integers(f"{other}.stop", 1, last + 1)[0])
    require(stop in known.cuts, f"rule 7 (row), class {other}: stop {stop} is no cut")
    while (k := max(rows)) > stop:
        row, block, before = rows.pop(k), graph.blocks[k], known.before[k]
        if block.activation is not None:
            terms.append(-most_product(row, before.errors[1]))
            row, gained = _through(block.activation, row, before, image, f"{other}.{k}")
            terms.append(gained)
        terms.append(-most_product(row, before.errors[0]))
        further, constant = block.transposed(row)
        terms += [constant, -_most(gamma(2 * block.backwards) * most_product(row, before.size))]
        terms.append(-_most(block.backwards * SMALLEST * before.total))
        for s, part in further.items():
            if s in rows:  # one more rounding, of the sum
                part = rows[s] + part
                terms.append(-_most(2 * U * most_product(part, known.cuts[s].size)))
            rows[s] = part
    terms += [_end(s, row, known, image, f"{other}.end.{s}") for s, row in rows.items()]
    return float(down(least_sum(np.array(terms))))


def most_product(row: Vector, size: Vector) -> float:
    """An upper bound of `|row| . size`."""
    return float(above(float(np.dot(np.abs(row), size)), row.size + 2))


def _most(value: float) -> float:
    return float(above(value, 2))


def _through(phi: Activation, row: Vector, before: Before, image: Arrays, name: str) -> tuple[Vector, float]:
    """A row for the value before an activation and a constant: `row . phi(z) >= result . z + constant`."""
    if not isinstance(phi, MaxMin):
        g = image.vector(f"{name}.slopes.0", row.size) * row
        return g, _constant(phi.pieces(), row, g, before, image.scalar(f"{name}.lam.0"))
    gained = 0.0
    if phi.clipped:
        g = image.vector(f"{name}.slopes.1", row.size) * row
        lam = image.scalar(f"{name}.lam.1")
        gained = _constant(phi.sorted_clamp().pieces(), row, g, _sorted(phi, before), lam)
        row = g
    slopes, lam = image.vector(f"{name}.slopes.0", row.size // 2), image.scalar(f"{name}.lam.0")
    g, more = _unsorted(phi, row, before, slopes, lam)
    return g, down(gained + more)


def _sorted(phi: MaxMin, before: Before) -> Before:
    """The zone of the sorted pairs: a permutation where their order is known, a nonexpansive map elsewhere."""
    a, b = phi.split(before.weights)
    a_first, b_first = phi.order(before.lower, before.upper)
    smaller = np.minimum(a, b)
    weights = phi.merge(
        np.where(a_first, a, np.where(b_first, b, smaller)), np.where(a_first, b, np.where(b_first, a, smaller))
    )
    centre, lower, upper = (phi.merge(*phi.sort(z)) for z in (before.centre, before.lower, before.upper))
    return Before(centre, lower, upper, weights, before.radius, before.size, before.total, before.errors)


def _unsorted(phi: MaxMin, row: Vector, before: Before, slopes: Vector, lam: float) -> tuple[Vector, float]:
    """The step of the sort itself: `a_p p + a_q q` is linear in `a + b` and in |t|, `t = a - b`.

    The centre of t is rounded, by at most U |t|: its zone has a radius that much larger.
    """
    p, q = phi.split(row)
    (ca, cb), (la, lb), (ua, ub) = (phi.split(z) for z in (before.centre, before.lower, before.upper))
    weights = np.minimum(*phi.split(before.weights)) * (math.sqrt(0.5) * (1 - 4 * U))
    mean, rest = p / 2 + q / 2, p / 2 - q / 2
    g = slopes * rest
    centre = ca - cb
    radius = up(before.radius + length(above(weights * np.abs(centre) * 2 * U, 4)))
    none = np.zeros_like(centre)
    zone = Before(centre, down(la - ub), up(ua - lb), weights, radius, none, 0.0, (none, none))
    kink = Leaky(np.full(g.size, -1.0))
    gained = _constant(kink.pieces(), rest, g, zone, lam)
    reach = np.add(*phi.split(np.maximum(np.abs(before.lower), np.abs(before.upper)))) + TINY
    lost = gamma(16) * most_product(np.abs(p) + np.abs(q) + np.abs(g) + TINY, reach)
    return phi.merge(mean + g, mean - g), down(gained - _most(lost))


def _constant(pieces: Iterable[Piece], row: Vector, g: Vector, zone: Before, lam: float) -> float:
    """A lower bound of `row . phi(z) - g . z` over box and ellipsoid, by the multiplier lam."""
    curvature = lam * zone.weights * zone.weights * (1 - 16 * U)
    curvature = np.where(curvature > 2.0**-800, curvature, 0.0)
    least = _least(pieces, row, g, curvature, (zone.centre, zone.lower, zone.upper))
    return float(down(least_sum(least) - _most(lam * zone.radius * zone.radius / 2)))


def _least(
    pieces: Iterable[Piece], a: Vector, g: Vector, curvature: Vector, zone: tuple[Vector, Vector, Vector]
) -> Vector:
    """Lower bounds of `min over z of F(z) = a phi(z) - g z + curvature / 2 (z - c)^2` over [lower, upper], entrywise.

    On one piece F is convex: it lies above its tangent at any point, whose least value is at an end. The point is
    where F is least, as far as floating point can tell; the bound does not depend on that. At most 16 roundings go
    into each of the terms whose sizes are added up.
    """
    centre, lower, upper = zone
    best = np.full_like(centre, np.inf)
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


def _end(s: int, row: Vector, known: Known, image: Arrays, name: str) -> float:
    """A lower bound of `row . h` over what is known of a cut; of the input, the ball alone unless its box is cut."""
    cut = known.cuts[s]
    if s == 0 and not known.restricted:
        return float(down(least_product(row, cut.centre) - _most(length(row) * cut.after)))
    none = np.zeros_like(row)
    zone = Before(cut.centre, cut.lower, cut.upper, np.ones(row.size), cut.after, none, 0.0, (none, none))
    return _constant(LINE, row, np.zeros(row.size), zone, image.scalar(name))
