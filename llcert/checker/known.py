"""Boxes and balls of all values of the network over the ball of an image, as rules 1 to 6 prove them (section 2.1 of
docs/certificate.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llcert.checker.numbers import Mask, Vector


@dataclass(frozen=True)
class Cut:
    """What is known of the value h of a cut: `lower <= h <= upper` and `||h - centre|| <= after`.

    varies: the entries of h that are not known to be constant.
    """

    centre: Vector
    lower: Vector
    upper: Vector
    after: float
    varies: Mask

    @property
    def size(self) -> Vector:
        """An upper bound of `|h|`, and of the absolute value of the centre."""
        return np.maximum(np.maximum(np.abs(self.lower), np.abs(self.upper)), np.abs(self.centre))


@dataclass(frozen=True)
class Zone:
    """Box and ellipsoid of the value z that a step of an activation reads: `lower <= z <= upper` and
    `||weights (z - centre)|| <= radius`.

    lower, upper: `[entries]`, or `[rows, entries]` where every row is bounded over a box of its own (rule 12).
    """

    centre: Vector
    lower: Vector
    upper: Vector
    weights: Vector
    radius: float


@dataclass(frozen=True)
class Roundoff:
    """What is needed to bound the rounding of rows that pass the body of a block, whose value is `z = A h + b`.

    size: an upper bound of `|A| |h| + magnitude`, h over the boxes of the sources. total: the sum of such sizes over
    the sources and all nodes of the body. deployed: an upper bound of the entrywise distance between z and its deployed
    evaluation (rule 10); zero in real numbers.
    """

    size: Vector
    total: float
    deployed: Vector


@dataclass(frozen=True)
class PreActivation:
    """What is known of the value of a block before its activation.

    activation_error: an upper bound of the entrywise error of a deployed evaluation of the activation itself.
    """

    zone: Zone
    roundoff: Roundoff
    activation_error: Vector


@dataclass(frozen=True)
class Known:
    """Everything that rules 1 to 6 prove of an image: of every cut, and of every block before its activation.

    restricted: whether the claim is restricted to a range, with which the box of the input is intersected.
    """

    cuts: Mapping[int, Cut]
    pre_activation: Mapping[int, PreActivation]
    restricted: bool = False
