"""The box of a block by hand: interval arithmetic with a dense matrix, and norms of its rows times the radius."""

from __future__ import annotations

import pytest
import torch
from drawing import Draw, normal
from torch import Tensor

from llcert.bounds.forward.box import box, squares
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Input, Network, apply
from llcert.ops import Add, Affine, Linear, Take, relu
from llcert.program import Block, lower

SIZE = 6


def _region(draw: Draw) -> MaskedRegion:
    """A box with the centre in it, a ball that cuts some of its corners, and a mask."""
    centre, below, above = draw.normal(2, SIZE), draw.positive(2, SIZE), draw.positive(2, SIZE)
    varying = torch.rand(2, SIZE, generator=draw.generator) < 0.7
    lower, upper = (torch.where(varying, end, centre) for end in (centre - below, centre + above))
    return MaskedRegion(Region(centre, lower, upper, draw.positive(2)), varying)


def _moved_then_added(draw: Draw) -> tuple[Block, Tensor]:
    """`W (s P x)`, P a permutation and s scales, and the dense matrix of all of it."""
    order = tuple(torch.randperm(SIZE, generator=draw.generator).tolist())
    scale, weight = draw.normal(SIZE), draw.normal(4, SIZE)
    image = apply(Input((SIZE,), torch.float64))
    node = apply(Linear(weight), apply(Affine(scale), apply(Take(0, order), image)))
    program = lower(Network(apply(Linear(torch.ones(2, 4)), apply(relu(), node))), dtype=torch.float64)
    dense = weight * scale
    return program.blocks[0], dense[:, torch.argsort(torch.tensor(order))]


@pytest.mark.parametrize("seed", range(10))
def test_the_better_of_box_rule_and_ball_at_the_first_sum(seed: int) -> None:
    draw = Draw(seed)
    block, dense = _moved_then_added(draw)
    known = _region(draw)
    (source,) = block.sources
    centre, region = known.region.centre @ dense.T, known.region
    positive, negative = dense.clamp(min=0), dense.clamp(max=0)
    low = region.lower @ positive.T + region.upper @ negative.T
    high = region.upper @ positive.T + region.lower @ negative.T
    reach = (dense[None] * known.mask[:, None]).norm(dim=2) * region.radius[:, None]
    found, by_boxes = (box(block, {source: known}, balls=balls) for balls in (True, False))
    torch.testing.assert_close(by_boxes.lower, low)
    torch.testing.assert_close(by_boxes.upper, high)
    torch.testing.assert_close(found.centre, centre)
    torch.testing.assert_close(found.lower, torch.maximum(low, centre - reach))
    torch.testing.assert_close(found.upper, torch.minimum(high, centre + reach))


def test_behind_a_sum_the_box_rule_continues_alone() -> None:
    """Two dense layers in a row: the ball narrows the box between them, and what follows is interval arithmetic."""
    draw = Draw(0)
    first, second, known = draw.normal(5, SIZE), draw.normal(3, 5), _region(draw)
    image = apply(Input((SIZE,), torch.float64))
    between = apply(Linear(first), image)
    program = lower(Network(apply(Add(), *[apply(Linear(second), between)] * 2)), dtype=torch.float64)
    alone = lower(Network(apply(Linear(first), image)), dtype=torch.float64)
    inner = box(alone.blocks[0], {alone.input: known})
    found = box(program.blocks[0], {program.input: known})
    middle, half = (inner.lower + inner.upper) / 2 @ second.T, (inner.upper - inner.lower) / 2 @ second.abs().T
    torch.testing.assert_close(found.lower, 2 * (middle - half))
    torch.testing.assert_close(found.upper, 2 * (middle + half))


def test_squares_never_vanish() -> None:
    values = torch.cat((normal(5), torch.tensor([0.0, 1e-200, -1e-320], dtype=torch.float64)))
    found = squares(values)
    assert bool((found >= values**2).all())
    assert bool(((found == 0) == (values == 0)).all())
    assert bool((found[-2:] * found[-2:].flip(0) > 0).all())
    torch.testing.assert_close(found[:5], values[:5] ** 2)
