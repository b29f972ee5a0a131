"""Row weights: bounds of the slopes of a block's activation, over a region and anywhere (docs/method.md, section 4)."""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.numerics.rounding import DOUBLE
from llcert.program import Block


class RowWeighting(enum.Enum):
    """Which slopes weight the rows of a local norm."""

    MASK = "mask"  # 0/1 and activation slopes: a Lipschitz bound between any two points of the ball (eq. 6)
    SECANT = "secant"  # chords from the centre: a bound on deviation from the image alone; never larger


def row_weights(block: Block, z: Region, weighting: RowWeighting) -> Tensor:
    """The factor of each row of a block's map, `[batch, *pre shape]`: mask and slope, or centre secant."""
    if block.activation is None:
        return torch.ones_like(z.centre)
    return block.activation.slope(z) if weighting is RowWeighting.MASK else block.activation.secant(z)


def steepest(block: Block) -> Tensor:
    """The largest slopes of a block's activation anywhere, rounded up; broadcastable to `[batch, *pre shape]`."""
    if block.activation is None:
        return torch.ones((), dtype=torch.float64)
    return rounded_up(block, block.activation.global_slope(block.pre.shape).double())


def rounded_up(block: Block, slopes: Tensor) -> Tensor:
    """Computed slopes of a block's activation, not below the true ones, as its author states; 0 and 1 are exact."""
    if block.activation is None:
        return slopes
    roundings = block.activation.slope_roundings
    if roundings is None:
        raise UnsupportedModel(f"{block.activation.label}: its slope_roundings are not stated")
    return torch.where((slopes == 0) | (slopes == 1), slopes, DOUBLE.above(slopes, roundings))
