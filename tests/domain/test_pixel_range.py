"""A range of pixels contains every number that its texts allow, and says which images lie in it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from llcert.domain.pixel_range import UNIT, PixelRange
from llcert.errors import InvalidInput


@pytest.mark.parametrize("low", ["-1/3", "0.1", "-0.3", "-7/255", "0"])
@pytest.mark.parametrize("high", ["1/3", "0.7", "36/255", "1", "2/7"])
def test_ends_are_the_nearest_numbers_outside(low: str, high: str) -> None:
    """By exact fractions: nothing that is allowed is left out, and nothing more than one number's width is added."""
    found = PixelRange.of(low, high)
    assert Fraction(found.low) <= Fraction(low) < Fraction(math.nextafter(found.low, math.inf))
    assert Fraction(math.nextafter(found.high, -math.inf)) < Fraction(high) <= Fraction(found.high)
    assert found.words == f"[{low}, {high}]"


def test_what_lies_in_a_range() -> None:
    images = torch.tensor([[0.0, 1.0], [0.5, 1.0 + 1e-7], [-1e-45, 0.5], [torch.nan, 0.5]])
    assert UNIT.holds(images).tolist() == [True, False, False, False]
    assert UNIT.holds(UNIT.clip(images)).tolist() == [True, True, True, False]
    assert torch.equal(UNIT.clip(images)[0], images[0])
    assert UNIT.covers(0.0, 1.0)
    assert not UNIT.covers(0.0, math.nextafter(1.0, 2.0))


def test_float32_images_are_compared_exactly() -> None:
    """The end 1/3 in float64 lies below the nearest float32 number, which is outside."""
    third = torch.tensor([[1 / 3]], dtype=torch.float32)
    assert float(third) > 1 / 3
    assert not PixelRange.of("0", "1/3").holds(third)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_no_range(ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput, match="the lower one first"):
        PixelRange(*ends)
