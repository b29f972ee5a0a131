"""The activations: values, images of boxes (rule 6), constant entries and weights (rule 3), pieces (rule 7).

All three are piecewise linear, which the rules need: on one piece the slope of a chord from the centre is monotone, and
what a relaxation minimises is convex. docs/certificate.md, section 1.5, says what this excludes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llcert.checker.files import Integers
from llcert.checker.numbers import TINY, Mask, U, Vector, down, up

Piece = tuple[Vector | float, Vector | float, Vector | float, Vector | float]
"""Start, end, a and b of a piece of a function: `phi(z) = a z + b` between start and end. a or b is 0."""

LINE: tuple[Piece, ...] = ((-np.inf, np.inf, 1.0, 0.0),)
"""The piece of the identity."""


@dataclass(frozen=True)
class Clamp:
    """`min(max(z, low), high)`, exact in floating point. ReLU is low = 0, high = infinity."""

    low: Vector
    high: Vector
    steepest = 1.0

    def __call__(self, z: Vector) -> Vector:
        return np.minimum(np.maximum(z, self.low), self.high)

    def centre_error(self, z: Vector) -> Vector:
        """An upper bound of the entrywise rounding error of `self(z)`: none."""
        return np.zeros_like(z)

    def image(self, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        """The box of the values over a box."""
        return self(lower), self(upper)

    def constant(self, lower: Vector, upper: Vector) -> Mask:
        """True only where the value is the same on the whole box, entrywise."""
        return (upper <= self.low) | (lower >= self.high) | (self.high <= self.low)

    def pieces(self) -> tuple[Piece, ...]:
        """Its three pieces."""
        return (
            (-np.inf, self.low, 0.0, self.low),
            (self.low, self.high, 1.0, 0.0),
            (self.high, np.inf, 0.0, self.high),
        )

    def weights(self, centre: Vector, lower: Vector, upper: Vector) -> Vector:
        """Upper bounds of the largest chord from the centre over the box, entrywise: the least weights of rule 3."""
        return largest_chord(self.pieces(), centre, lower, upper, exact=True)


@dataclass(frozen=True)
class Leaky:
    """z where z >= 0, `below * z` elsewhere. The absolute value is below = -1; below may be any finite number."""

    below: Vector

    @property
    def steepest(self) -> float:
        """The largest absolute slope."""
        return float(max(1.0, np.abs(self.below).max()))

    def __call__(self, z: Vector) -> Vector:
        return np.where(z >= 0, z, self.below * z)

    def centre_error(self, z: Vector) -> Vector:
        """An upper bound of the entrywise rounding error of `self(z)`: that of one product."""
        return np.where((z >= 0) | (self.below == 0), 0.0, 2 * U * np.abs(self.below * z) + TINY)

    def image(self, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        """A box that contains the values over a box: those at its ends, and 0 where the box contains 0."""
        ends, errors = [self(lower), self(upper)], [self.centre_error(lower), self.centre_error(upper)]
        knot = np.where((lower <= 0) & (upper >= 0), 0.0, ends[0])
        low = np.minimum(np.minimum(ends[0] - errors[0], ends[1] - errors[1]), knot)
        high = np.maximum(np.maximum(ends[0] + errors[0], ends[1] + errors[1]), knot)
        exact = (lower >= 0) | ((self.below == 0) & (upper <= 0))
        return np.where(exact, low, down(low)), np.where(exact, high, up(high))

    def constant(self, lower: Vector, upper: Vector) -> Mask:
        """True only where the value is the same on the whole box, entrywise."""
        return (self.below == 0) & (upper <= 0)

    def pieces(self) -> tuple[Piece, ...]:
        """Its two pieces."""
        return ((-np.inf, 0.0, self.below, 0.0), (0.0, np.inf, 1.0, 0.0))

    def weights(self, centre: Vector, lower: Vector, upper: Vector) -> Vector:
        """Upper bounds of the largest chord from the centre over the box, entrywise: the least weights of rule 3."""
        return largest_chord(self.pieces(), centre, lower, upper, exact=False)


@dataclass(frozen=True)
class MaxMin:
    """For every pair (a, b), at the places `first` and `second`: `min(max(a, b), high)` goes to place `first` and
    `max(min(a, b), low)` to `second`. Exact in floating point."""

    first: Integers
    second: Integers
    low: Vector
    high: Vector
    steepest = 1.0

    def split(self, z: Vector) -> tuple[Vector, Vector]:
        """The values a and b of every pair, `[pairs]` each."""
        return z[self.first], z[self.second]

    def merge(self, a: Vector, b: Vector) -> Vector:
        """The inverse of `split`: a and b of every pair at their places, `[entries]`."""
        z = np.empty(2 * self.first.size)
        z[self.first], z[self.second] = a, b
        return z

    def sort(self, z: Vector) -> tuple[Vector, Vector]:
        """The larger and the smaller of every pair, `[pairs]` each."""
        a, b = self.split(z)
        return np.maximum(a, b), np.minimum(a, b)

    def __call__(self, z: Vector) -> Vector:
        largest, smallest = self.sort(z)
        return self.merge(np.minimum(largest, self.high), np.maximum(smallest, self.low))

    def centre_error(self, z: Vector) -> Vector:
        """An upper bound of the entrywise rounding error of `self(z)`: none."""
        return np.zeros_like(z)

    def image(self, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        """The box of the values over a box: both outputs are nondecreasing in both inputs."""
        return self(lower), self(upper)

    def constant(self, lower: Vector, upper: Vector) -> Mask:
        """True only where an output is clipped on the whole box, entrywise."""
        top, bottom = self.sort(lower)[0] >= self.high, self.sort(upper)[1] <= self.low
        return self.merge(top.astype(float), bottom.astype(float)) > 0

    def order(self, lower: Vector, upper: Vector) -> tuple[Mask, Mask]:
        """The pairs with a >= b on the whole box, and the other pairs with b >= a on all of it, `[pairs]` each."""
        (la, lb), (ua, ub) = self.split(lower), self.split(upper)
        return la >= ub, (lb >= ua) & ~(la >= ub)

    def weights(self, centre: Vector, lower: Vector, upper: Vector) -> Vector:
        """The least weights of rule 3: 0 for inputs that act on constant outputs alone, else 1."""
        varies = ~self.constant(lower, upper)
        top, bottom = varies[self.first], varies[self.second]
        a_first, b_first = self.order(lower, upper)
        either = top | bottom
        a = np.where(a_first, top, np.where(b_first, bottom, either))
        b = np.where(a_first, bottom, np.where(b_first, top, either))
        return self.merge(a, b)

    def sorted_clamp(self) -> Clamp:
        """Step 1 of rule 8: the clamp of the sorted pairs, the larger ones at the places `first`."""
        never = np.full_like(self.low, np.inf)
        return Clamp(self.merge(-never, self.low), self.merge(self.high, never))

    @property
    def clipped(self) -> bool:
        """Whether any threshold is finite."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())


Activation = Clamp | Leaky | MaxMin


def largest_chord(pieces: Sequence[Piece], centre: Vector, lower: Vector, upper: Vector, *, exact: bool) -> Vector:
    """Upper bounds of `|phi(z) - phi(c)| / |z - c|` over the box, entrywise; the centre c lies in the box.

    On one piece the slope of the chord is monotone on each side of c, so the ends of the piece suffice, and its own
    slope where it contains c. No chord is steeper than the steepest piece that the box meets, which keeps chords of 1
    at 1 in spite of rounding. exact: every slope is 0 or 1, so that values are not rounded.
    """
    largest, steepest = np.zeros_like(centre), np.zeros_like(centre)
    here = np.zeros_like(centre)
    for start, end, slope, height in pieces:  # neighbours agree where they meet: any piece with the centre will do
        here = np.where((centre >= start) & (centre <= end), slope * centre + height, here)
    for start, end, slope, height in pieces:
        p, q = np.maximum(lower, start), np.minimum(upper, end)
        met = p < q
        steepest = np.where(met, np.maximum(steepest, np.abs(slope)), steepest)
        largest = np.where(met & (p <= centre) & (centre <= q), np.maximum(largest, np.abs(slope)), largest)
        for point in (p, q):
            value = slope * point + height
            slop = 0.0 if exact else 4 * U * (np.abs(value) + np.abs(here)) + TINY
            rise, run = np.abs(value - here) + slop, np.abs(point - centre)
            chord = np.where((rise > 0) & (run > 0), rise / np.where(run > 0, run, 1.0) * (1 + 16 * U) + TINY, 0.0)
            largest = np.where(met, np.maximum(largest, chord), largest)
    return np.minimum(largest, steepest)
