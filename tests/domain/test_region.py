"""Boxes and balls: sound, tighter together, and nothing claimed where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.domain.pixel_range import UNIT
from llcert.domain.region import Region, ball
from llcert.numerics.tensors import length, spread


def _random_region(seed: int) -> tuple[Region, Tensor]:
    """A region of the shape [3, 2, 2], and 200 points that lie in it, each in its own copy."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    centre = draw(1, 3, 2, 2) - 0.5
    region = Region(centre, centre - draw(1, 3, 2, 2), centre + draw(1, 3, 2, 2), draw(1) * 2)
    points = region.lower + draw(200, 3, 2, 2) * (region.upper - region.lower)
    offset = points - centre
    shrink = (region.radius / length(offset)).clamp(max=1) * (1 - 1e-12)
    return region, centre + offset * spread(shrink, offset)


def _copies(region: Region, count: int) -> Region:
    return region.select(torch.zeros(count, dtype=torch.int64))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_tightening_loses_no_point_and_is_idempotent(seed: int) -> None:
    region, points = _random_region(seed)
    tight = region.ball_to_box().box_to_ball()
    again = tight.ball_to_box().box_to_ball()
    assert _copies(tight, 200).contains(points, tolerance=1e-12).all()
    assert (tight.lower >= region.lower).all()
    assert (tight.upper <= region.upper).all()
    assert (tight.radius <= region.radius).all()
    for field in ("centre", "lower", "upper", "radius"):
        assert torch.equal(getattr(tight, field), getattr(again, field))


def test_box_to_ball_is_the_farthest_corner() -> None:
    region = Region(torch.zeros(1, 2), torch.tensor([[-3.0, -1.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([9.0]))
    assert region.box_to_ball().radius == 5
    assert region.deviation.tolist() == [[3, 4]]


def test_ball_to_box_is_the_box_around_the_ball() -> None:
    region = Region(torch.zeros(1, 2), torch.tensor([[-3.0, -1.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([2.0]))
    tight = region.ball_to_box()
    assert tight.lower.tolist() == [[-2, -1]]
    assert tight.upper.tolist() == [[1, 2]]


def test_a_tiny_box_has_a_ball_that_is_not_empty() -> None:
    region = Region(torch.zeros(1, 2), torch.full((1, 2), -1e-30), torch.full((1, 2), 1e-30), torch.tensor([1.0]))
    assert region.box_to_ball().radius >= 1.41e-30


def test_an_unbounded_box_keeps_the_ball_and_the_other_way_round() -> None:
    everywhere = torch.full((1, 2), torch.inf)
    unboxed = Region(torch.zeros(1, 2), -everywhere, everywhere, torch.tensor([2.0]))
    assert unboxed.box_to_ball().radius == 2
    assert (unboxed.ball_to_box().upper == 2).all()
    unbound = Region(torch.zeros(1, 2), -torch.ones(1, 2), torch.ones(1, 2), torch.tensor([torch.inf]))
    assert (unbound.ball_to_box().upper == 1).all()
    assert torch.allclose(unbound.box_to_ball().radius, torch.tensor(2.0).sqrt())


@pytest.mark.parametrize("field", ["lower", "upper", "radius"])
def test_nan_spreads_when_a_region_is_tightened(field: str) -> None:
    region, _ = _random_region(0)
    getattr(region, field)[...] = torch.nan
    tight = region.ball_to_box().box_to_ball()
    assert tight.radius.isnan().all()


def test_contains_draws_the_line_where_it_should() -> None:
    region = Region(torch.zeros(1, 2), -torch.ones(1, 2), torch.ones(1, 2), torch.tensor([1.2]))
    values = torch.tensor([[0.5, 0.5], [1.1, 0.0], [0.0, -1.1], [1.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert _copies(region, 6).contains(values, tolerance=0.0).tolist() == [True, False, False, False, False, False]
    assert _copies(region, 6).contains(values, tolerance=0.2).tolist() == [True, True, True, True, False, False]


def test_contains_claims_nothing_where_nothing_is_known() -> None:
    centre, one = torch.zeros(1, 2), torch.ones(1, 2)
    unknown = Region(centre, one * torch.nan, one * torch.nan, torch.tensor([torch.nan]))
    overflowed = Region(one * torch.inf, one * torch.nan, one * torch.nan, torch.tensor([1.0]))
    for values in (one, one * torch.nan, one * torch.inf):
        assert unknown.contains(values, tolerance=0.0).all()
        assert overflowed.contains(values, tolerance=0.0).all()
    half = Region(centre, -one, torch.tensor([[torch.nan, 1.0]]), torch.tensor([9.0]))
    assert half.contains(torch.tensor([[5.0, 0.0]]), tolerance=0.0).all()
    assert not half.contains(torch.tensor([[5.0, 5.0]]), tolerance=0.0).any()


def test_ball_holds_its_sphere() -> None:
    images = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = ball(images, 0.3)
    assert torch.equal(region.centre, images)
    assert torch.allclose(region.upper - images, torch.full_like(images, 0.3))
    assert torch.allclose(images - region.lower, torch.full_like(images, 0.3))
    assert (region.radius == 0.3).all()
    assert region.batch == 4


def test_ball_takes_one_radius_an_image() -> None:
    region = ball(torch.zeros(2, 3), torch.tensor([0.1, 0.5]))
    assert torch.allclose(region.upper, torch.tensor([[0.1] * 3, [0.5] * 3]))
    assert torch.equal(region.select(torch.tensor([False, True])).radius, torch.tensor([0.5]))


def test_clipping_cuts_the_box_at_the_pixel_range_and_never_loses_the_image() -> None:
    images = torch.tensor([[0.0, 0.5, 1.0, -0.25, 1.5]])
    region = ball(images, 0.75, within=UNIT)
    assert region.lower.tolist() == [[0, 0, 0.25, -0.25, 0.75]]
    assert region.upper.tolist() == [[0.75, 1, 1, 0.5, 1.5]]
    assert region.contains(images, tolerance=0.0).all()
    assert region.radius == 0.75


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_length_neither_overflows_nor_vanishes(scale: float) -> None:
    assert torch.allclose(length(torch.tensor([[[3.0, 4.0]]]) * scale) / scale, torch.tensor([5.0]))


@pytest.mark.parametrize("scale", [2.0**k for k in (-1000, -600, -466, -464, -300, 0, 300, 464, 466, 600, 1000)])
def test_length_scales_with_powers_of_two(scale: float) -> None:
    """One vector beside others of any size, whose size is what decides how lengths are found."""
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone, beside = length(x * scale), length(torch.cat((x * scale, x, torch.zeros_like(x))))
    exact = x.numpy().astype(np.longdouble) * scale if scale > 1e-300 else (x * scale).numpy().astype(np.longdouble)
    assert np.allclose(alone.numpy() / np.sqrt((exact * exact).sum(1)), 1, rtol=1e-15, atol=0)
    assert torch.equal(alone, beside[:3])
    assert torch.equal(length(x), beside[3:6])
    assert torch.equal(beside[6:], torch.zeros(3, dtype=torch.float64))


def test_length_of_the_last_axes_and_of_what_is_not_a_number() -> None:
    assert length(torch.ones(2, 3, 4), 2).shape == (2, 3)
    assert length(torch.tensor([[torch.nan, 1.0]])).isnan().all()
    assert length(torch.tensor([[torch.inf, 1.0]])).isinf().all()


def test_what_is_unknown_stays_unknown_when_it_is_cut() -> None:
    nan = torch.nan
    region = Region(torch.zeros(1, 2), torch.tensor([[nan, -2.0]]), torch.tensor([[nan, 2.0]]), torch.ones(1))
    cut = region.within(torch.tensor([[-1.0, nan]]), torch.tensor([[1.0, 1.0]]))
    assert cut.lower.isnan().tolist() == [[True, False]]
    assert cut.upper.isnan().tolist() == [[True, False]]
    assert (float(cut.lower[0, 1]), float(cut.upper[0, 1])) == (-2.0, 1.0)
