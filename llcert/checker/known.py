"""What rules 1 to 6 prove of the values of a network over the ball of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llcert.checker.numbers import Mask, Vector


@dataclass(frozen=True)
class Cut:
    """What is known of a cut's value h: `lower <= h <= upper`, `||h - centre|| <= after`, what varies at all."""

    centre: Vector
    lower: Vector
    upper: Vector
    after: float
    varies: Mask

    @property
    def size(self) -> Vector:
        """`|h|` at most; also of the centre."""
        return np.maximum(np.maximum(np.abs(self.lower), np.abs(self.upper)), np.abs(self.centre))


@dataclass(frozen=True)
class Zone:
    """Box and ellipsoid of a value z: `lower <= z <= upper`, `||weights (z - centre)|| <= radius`.

    lower, upper: `[entries]`, or `[rows, entries]` where every row is bounded over a box of its own.
    """

    centre: Vector
    lower: Vector
    upper: Vector
    weights: Vector
    radius: float


@dataclass(frozen=True)
class Passage:
    """What rows lose on their way through the body of a block, whose value is z.

    size: `|A| |h| + magnitude` at most, h over the boxes of the sources. total: the sum of such sizes over the sources
    and all nodes of the body. lost: by how much a deployed evaluation may miss z, entrywise.
    """

    size: Vector
    total: float
    lost: Vector


@dataclass(frozen=True)
class Before:
    """What is known of a block before its activation. own: what a deployed evaluation of the activation itself errs."""

    zone: Zone
    passage: Passage
    own: Vector


@dataclass(frozen=True)
class Known:
    """Everything rules 1 to 6 prove of an image: of every cut, and of every block before its activation.

    restricted: whether the input's box is cut to a range.
    """

    cuts: Mapping[int, Cut]
    before: Mapping[int, Before]
    restricted: bool = False
