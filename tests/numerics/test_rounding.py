"""Bounds on rounding against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from drawing import Draw

from llcert.numerics.rounding import DOUBLE, SINGLE, Rounding, downwards, upwards

FORMATS = pytest.mark.parametrize("form", [DOUBLE, SINGLE], ids=["double", "single"])


@FORMATS
@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000, 2**20])
def test_gamma_is_not_below_the_truth_and_close(form: Rounding, count: int) -> None:
    exact = count * Fraction(form.unit) / (1 - count * Fraction(form.unit))
    assert exact <= Fraction(form.gamma(count)) <= exact * (1 + Fraction(1, 2**48))


@FORMATS
def test_gamma_ends_where_it_says_nothing(form: Rounding) -> None:
    assert math.isinf(form.gamma(int(0.5 / form.unit)))
    assert math.isfinite(form.gamma(int(0.5 / form.unit) - 1))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 5, 300])
def test_sums_of_products_are_below_their_upper_bounds(seed: int, count: int) -> None:
    """Of numbers and of tensors, which get the same bound."""
    draw = Draw(seed)
    a, b = (draw.normal(count).abs() * 10.0 ** draw.choices.randint(-170, 100) for _ in range(2))
    exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
    computed = float((a * b).sum())
    bound = DOUBLE.above(computed, 2 * count)
    assert exact <= Fraction(bound) <= exact * (1 + Fraction(1, 10**12)) + Fraction(2, 10**304)
    assert float(DOUBLE.above(torch.tensor(computed, dtype=torch.float64), 2 * count)) == bound


def test_a_computed_zero_may_be_an_underflow_and_nan_stays() -> None:
    found = DOUBLE.above(torch.tensor([0.0, torch.nan, torch.inf], dtype=torch.float64), 3)
    assert found[0] > 0
    assert torch.isnan(found[1])
    assert torch.isinf(found[2])
    assert math.isnan(DOUBLE.above(math.nan))


def test_a_rounding_to_single_precision_moves_a_number_by_no_more_than_is_said() -> None:
    draw = Draw(0)
    numbers = draw.normal(4000) * 10.0 ** (torch.rand(4000, generator=draw.generator, dtype=torch.float64) * 80 - 46)
    allowed = SINGLE.nearest(numbers.abs())
    rounded = torch.from_numpy(numbers.numpy().astype(np.float32).astype(np.float64))
    flushed = torch.where(rounded.abs() < SINGLE.tiny, 0.0, rounded)
    for found in (rounded, flushed):
        assert bool(((found - numbers).abs() <= allowed).all())


def test_neighbours_are_the_next_numbers() -> None:
    x = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    assert upwards(x).tolist() == np.nextafter(x.numpy(), np.inf).tolist()
    assert downwards(x).tolist() == np.nextafter(x.numpy(), -np.inf).tolist()
