"""Row weights of local norms: bounds of the slopes of a block's activation, over a region and over all inputs.

For both arithmetics of the forward propagation, and for global Lipschitz constants; docs/method.md, section 4.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.numerics.rounding import DOUBLE
from llcert.program import Block


class RowWeighting(enum.Enum):
    """Which slopes weight the rows of a local norm (docs/method.md, Definition 4.2)."""

    SLOPE = "slope"  # between any two points of the region, 0 for constant entries: Lipschitz constants (eq. 6)
    SECANT = "secant"  # chords from the centre: bounds the deviation from the image alone, and is never larger


def row_weights(block: Block, z: Region, weighting: RowWeighting) -> Tensor:
    """The weight of each row of a block's linear map, `[batch, *pre shape]`, over the region z of its pre-activation;
    1 without an activation. As computed: upper bounds up to rounding."""
    if block.activation is None:
        return torch.ones_like(z.centre)
    return block.activation.slope(z) if weighting is RowWeighting.SLOPE else block.activation.secant(z)


def global_slopes(block: Block) -> Tensor:
    """Upper bounds of the slopes of a block's activation over all inputs, rounded up, in float64; broadcastable to
    `[batch, *pre shape]`."""
    if block.activation is None:
        return torch.ones((), dtype=torch.float64)
    return slopes_rounded_up(block, block.activation.global_slope(block.pre.shape).double())


def slopes_rounded_up(block: Block, slopes: Tensor) -> Tensor:
    """Upper bounds of the true slopes of a block's activation, from computed ones in float64.

    Raised by the roundings that the author of the activation states; 0 and 1 are exact. Raises UnsupportedModel where
    these are not stated.
    """
    if block.activation is None:
        return slopes
    roundings = block.activation.slope_roundings
    if roundings is None:
        raise UnsupportedModel(f"{block.activation.label}: its slope_roundings are not stated")
    return torch.where((slopes == 0) | (slopes == 1), slopes, DOUBLE.above(slopes, roundings))
