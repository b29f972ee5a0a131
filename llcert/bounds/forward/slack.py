"""What a proof adds to its own bounds so that the independent checker, with an arithmetic of its own, confirms them
(docs/method.md, section 12, the checker's slack; docs/certificate.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.box import box
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE, downwards, upwards
from llcert.program import Block


class Slack:
    """What a proof adds to its bounds for a checker: here nothing, `TIGHT`.

    products: the number of roundings that are paid for in a product of a deployed evaluation, at least.
    """

    products: int = 0

    def box(self, block: Block, sources: Mapping[Node, MaskedRegion]) -> Region:
        """The box of a block's value before its activation; sources: of the values that the block reads."""
        return box(block, sources)

    def box_error(self, error: Tensor, size: Tensor) -> Tensor:
        """By how much the box of a block's value is widened, at least `error`.

        size: of the sums in that value, `[batch, *pre shape]`.
        """
        return error

    def intermediate(self, ends: tuple[Tensor, Tensor], paid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Intermediate bounds (lower, upper), widened.

        paid: what they pay for the rounding of the backward pass itself, without that of evaluations of the network.
        size: as of `box_error`.
        """
        return ends

    def error(self, error: Tensor) -> Tensor:
        """A bound of an error of a value, raised."""
        return error

    def weights(self, weights: Tensor) -> Tensor:
        """Row weights, raised."""
        return weights

    def radius(self, radius: Tensor) -> Tensor:
        """The radius of a ball, raised."""
        return radius

    def norm(self, value: Tensor, side: int) -> Tensor:
        """The norm of a map, raised; side: the smaller of its numbers of rows and columns."""
        return value


TIGHT = Slack()


@dataclass(frozen=True)
class CheckerSlack(Slack):
    """The slack that a proof leaves for `llcert check`.

    boxes: computes the box of a block as the checker does, from the regions of the values that the block reads.
    relative: of the size of sums, by which boxes are widened, and of themselves, by which norms and radii are raised
    (norms by `2 n^2 u` more, n their smaller side, for a proof by factorisation). least: added to what may be zero.
    """

    boxes: Callable[[Block, Mapping[Node, MaskedRegion]], Region]
    relative: float = 1e-9
    least: float = 1e-30
    products: int = 7

    def box(self, block: Block, sources: Mapping[Node, MaskedRegion]) -> Region:
        return self.boxes(block, sources)

    def box_error(self, error: Tensor, size: Tensor) -> Tensor:
        return error + (self.error(size * self.relative) + 2.0**-800)

    def intermediate(self, ends: tuple[Tensor, Tensor], paid: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Wider by `paid`: the checker's backward pass rounds about as much. Evaluations of the network need no slack:
        the bounds pay for them already, and the checker counts fewer roundings of a product."""
        slack = self.box_error(paid, size)
        return downwards(ends[0] - slack), upwards(ends[1] + slack)

    def error(self, error: Tensor) -> Tensor:
        """Errors that are practically zero are left as they are."""
        return torch.where(error > DOUBLE.tiny * 2.0**20, error * (1 + self.relative) + self.least, error)

    def weights(self, weights: Tensor) -> Tensor:
        """Weights that are exactly 1 are left as they are."""
        return torch.where(weights == 1, weights, self.error(weights))

    def radius(self, radius: Tensor) -> Tensor:
        """Raised to more than 0, even where it is 0."""
        return radius * (1 + self.relative) + self.least

    def norm(self, value: Tensor, side: int) -> Tensor:
        return value * (1 + self.relative + 2 * DOUBLE.unit * side**2)
