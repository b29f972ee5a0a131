"""How much wider than it has to be a proof is, so that a checker with other arithmetic confirms it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.box import Hidden, box
from llcert.domain.region import Region
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE, downwards, upwards
from llcert.program import Block


class Slack:
    """What a proof adds to its own bounds. This one, TIGHT, adds nothing.

    products: roundings of a product in the deployed format that are paid for at least.
    """

    products: int = 0

    def box(self, block: Block, sources: Mapping[Node, Hidden]) -> Region:
        """The box of a block's value before its activation, of its sources."""
        return box(block, sources)

    def box_error(self, error: Tensor, size: Tensor) -> Tensor:
        """By how much that box is widened, at least `error`; size: of the numbers that are added up."""
        return error

    def intermediate(self, ends: tuple[Tensor, Tensor], paid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Intermediate bounds, lower and upper. paid: what they pay for the rounding of the backward pass itself,
        without that of evaluations of the network. size: as of `box_error`."""
        return ends

    def error(self, error: Tensor) -> Tensor:
        """An error >= 0 of a value."""
        return error

    def weights(self, weights: Tensor) -> Tensor:
        """Row weights."""
        return weights

    def radius(self, radius: Tensor) -> Tensor:
        """The radius of a ball."""
        return radius

    def norm(self, value: Tensor, side: int) -> Tensor:
        """The norm of a map; side: the smaller of its two."""
        return value


TIGHT = Slack()


@dataclass(frozen=True)
class CheckerSlack(Slack):
    """Room for `llcert check`, whose arithmetic is another (docs/certificate.md).

    boxes: gives the box of a block as the checker computes it, of its sources. relative: boxes are wider by so much of
    the sizes that are added up, norms and radii larger by so much of themselves (norms by `2 n^2 u` more, n their
    smaller side, for a proof by factorisation). least: added to what may be too small to have room.
    """

    boxes: Callable[[Block, Mapping[Node, Hidden]], Region]
    relative: float = 1e-9
    least: float = 1e-30
    products: int = 7

    def box(self, block: Block, sources: Mapping[Node, Hidden]) -> Region:
        return self.boxes(block, sources)

    def box_error(self, error: Tensor, size: Tensor) -> Tensor:
        return error + (self.error(size * self.relative) + 2.0**-800)

    def intermediate(self, ends: tuple[Tensor, Tensor], paid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Wider by `paid`: the checker's backward pass rounds about as much. Evaluations of the network need no room:
        the bounds pay for them already, and the checker counts fewer roundings of a product."""
        room = self.box_error(paid, size)
        return downwards(ends[0] - room), upwards(ends[1] + room)

    def error(self, error: Tensor) -> Tensor:
        """What is practically zero is left alone."""
        return torch.where(error > DOUBLE.tiny * 2.0**20, error * (1 + self.relative) + self.least, error)

    def weights(self, weights: Tensor) -> Tensor:
        """What is exactly 1 is left alone."""
        return torch.where(weights == 1, weights, self.error(weights))

    def radius(self, radius: Tensor) -> Tensor:
        """Never 0."""
        return radius * (1 + self.relative) + self.least

    def norm(self, value: Tensor, side: int) -> Tensor:
        return value * (1 + self.relative + 2 * DOUBLE.unit * side**2)
