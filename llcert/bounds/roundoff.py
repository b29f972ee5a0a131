"""What rounding costs: the sizes that errors are counted in, block by block (METHOD, section 8)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.ir import Node
from llcert.program import Block
from llcert.region import length
from llcert.rounding import DOUBLE


@dataclass(frozen=True)
class Roundoff:
    """What an enclosure knows of sizes, for whoever computes with its regions.

    sizes: of each block, upper bounds of `N |h| + |b|` over the regions (`llcert.bounds.box.sizes`), `[batch, *pre
    shape]`. errors: of each block, bounds of what float64 may err in its value before the activation at one point, or in
    one end of its box, likewise. totals: of each block, the sum of all sizes on the way through it, `[batch]`. drift: of each block's output and the input, upper bounds of the distance between
    the deployed and the real network's value anywhere in the ball, `[batch]`; empty where only the real one is meant.
    """

    sizes: dict[Node, Tensor] = field(default_factory=dict)
    errors: dict[Node, Tensor] = field(default_factory=dict)
    totals: dict[Node, Tensor] = field(default_factory=dict)
    drift: dict[Node, Tensor] = field(default_factory=dict)

    def select(self, images: Tensor) -> Roundoff:
        """Of some images; images: mask or index."""
        parts = (self.sizes, self.errors, self.totals, self.drift)
        return Roundoff(*({n: t[images] for n, t in part.items()} for part in parts))


def block_error(block: Block, size: Tensor) -> Tensor:
    """Bounds of the error of float64 in each entry of a block's value, or in an end of its box, `[batch, *pre shape]`.

    size: as in `Roundoff.sizes`. Interval arithmetic through a node with r roundings takes at most 4 r + 16 of them
    (docs/soundness.md, lemma 2).
    """
    count = 4 * block.roundings + 16 * len(block.body) + 32
    largest = size.flatten(1).amax(1) + 1
    lost = block.underflow * largest.reshape(-1, *[1] * (size.ndim - 1))
    return DOUBLE.above(DOUBLE.gamma(count) * size, 4) + lost


def distance(error: Tensor, weights: Tensor | None = None) -> Tensor:
    """Upper bound of the length of an error >= 0, its entries weighted, `[batch]`."""
    weighted = error if weights is None else error * weights
    return DOUBLE.above(length(weighted), weighted[0].numel() + 8)

