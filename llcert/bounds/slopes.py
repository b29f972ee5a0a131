"""The slopes of a block's activation, not below the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.program import Block
from llcert.rounding import DOUBLE


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
