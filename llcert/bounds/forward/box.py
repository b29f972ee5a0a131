"""The box of a block's value before its activation, from boxes and balls of the values it reads (docs/method.md,
Propositions 3.2 and 3.3).

For both arithmetics of the forward propagation; rounding is not bounded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.domain.region import MaskedRegion, Region
from llcert.ir import LinearOp, Node
from llcert.numerics.gradients import maximum, minimum, root
from llcert.numerics.tensors import spread
from llcert.program import Block


def box(block: Block, sources: Mapping[Node, MaskedRegion], *, balls: bool = True) -> Region:
    """Outer bounds of a block's value before its activation; the radius is left infinite.

    By the box rule, with middle and half-width. At the first operator that adds entries up the box is intersected with
    the one that its row norms and the ball of its source give. balls: False for the box rule alone.
    """
    known = {s: _Known(h.region, _Ball(h.region.radius, h.mask) if balls else None) for s, h in sources.items()}
    for node in block.body:
        known[node] = _through(node, [known[i] for i in node.inputs])
    return known[block.pre].region


@dataclass(frozen=True)
class _Ball:
    """A ball behind scaled permutations: `z - c = factors * P delta`, `||delta|| <= radius`, P a permutation that may
    leave entries out.

    radius: `[batch]`. factors: `[batch, *shape]`. zero_one: whether these are zeros and ones, their own
    squares.
    """

    radius: Tensor
    factors: Tensor
    zero_one: bool = True


@dataclass(frozen=True)
class _Known:
    """The region of a node inside a block, and its ball as long as no entries have been added up."""

    region: Region
    ball: _Ball | None = None


def _through(node: Node, inputs: list[_Known]) -> _Known:
    """The region of a node's value, from those of its inputs."""
    centre = node.op(*(i.region.centre for i in inputs))
    unknown = torch.full_like(inputs[0].region.radius, torch.inf)
    if not isinstance(node.op, LinearOp):
        lower, upper = (
            node.op(*parts) for parts in ([i.region.lower for i in inputs], [i.region.upper for i in inputs])
        )
        return _Known(Region(centre, lower, upper, unknown))
    (source,) = inputs
    magnitude = node.op.transformed(torch.abs)
    middle, half = _middle(source.region)
    middle, half = node.op(middle), magnitude.linear(half)
    lower, upper = middle - half, middle + half
    ball = source.ball
    if ball is None:
        return _Known(Region(centre, lower, upper, unknown))
    if node.op.is_scaled_permutation:
        moved = _Ball(ball.radius, magnitude.linear(ball.factors), zero_one=False)
        return _Known(Region(centre, lower, upper, unknown), moved)
    squared = ball.factors if ball.zero_one else squares(ball.factors)
    deviation = root(node.op.transformed(squares).linear(squared)) * spread(ball.radius, centre)
    return _Known(Region(centre, maximum(lower, centre - deviation), minimum(upper, centre + deviation), unknown))


def squares(x: Tensor) -> Tensor:
    """Upper bounds of the squares, so large that no product of two of them underflows; zero stays zero."""
    return torch.where(x == 0, 0.0, x.square().clamp(min=torch.finfo(x.dtype).tiny ** 0.5))


def _middle(region: Region) -> tuple[Tensor, Tensor]:
    """Middle and half-width of a box; NaN, which certifies nothing, where it is unbounded."""
    return (region.lower + region.upper) / 2, (region.upper - region.lower) / 2
