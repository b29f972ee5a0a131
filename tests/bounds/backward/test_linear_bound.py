"""Sums of a backward pass lie below the exact sums of their terms, whatever cancels."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from drawing import Draw

from llcert.bounds.backward.linear_bound import LinearBound, LowerSum
from llcert.domain.row_sharing import UNSHARED
from llcert.ir import Input, apply
from llcert.numerics.rounding import DOUBLE


@pytest.mark.parametrize("seed", range(10))
def test_below_the_exact_sum_of_what_the_terms_are_at_least(seed: int) -> None:
    """Terms of many sizes that cancel, each too large by up to its error: by exact fractions."""
    draw, count = Draw(seed), 40
    total = LowerSum.of(torch.zeros(1, 1, dtype=torch.float64), DOUBLE)
    exact = Fraction(0)
    for number in range(count):
        term = draw.normal(1, 1, scale=10.0 ** draw.choices.randint(-12, 12)) * (-1) ** number
        error = term.abs() * draw.choices.choice([0.0, 1e-15, 1e-9])
        total = total.plus(term, error)
        exact += Fraction(float(term)) - Fraction(float(error))
    assert Fraction(float(total.lower)) <= exact
    assert float(exact) - float(total.lower) <= 1e-13 * float(total.size)
    assert float(total.paid) >= float(total.error)


def test_what_evaluations_err_is_not_paid_for_the_arithmetic() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    total = LowerSum.of(0 * one, DOUBLE).plus(one, 3e-3 * one, 2e-3 * one)
    assert float(total.lower) == pytest.approx(1 - 3e-3, rel=1e-12)
    assert float(total.paid) == pytest.approx(1e-3, rel=1e-9)


def test_an_estimate_pays_for_nothing() -> None:
    one = torch.ones(1, 1)
    total = LowerSum.of(0 * one, None).plus(one).plus(-one / 3)
    assert float(total.lower) == float(one - one / 3)


def test_coefficients_of_one_value_add_up() -> None:
    first, second = (apply(Input((2,)), name=name) for name in "ab")
    bound = LinearBound({}, LowerSum.of(torch.zeros(1, 1), None))
    for part in (1.0, 2.0):
        bound = bound.plus(first, torch.full((1, 1, 2), part))
    bound = bound.plus(second, torch.ones(1, 1, 2))
    assert bound.coefficients[first].unique().tolist() == [3.0]
    assert set(bound.without(first).coefficients) == {second}
    assert bound.sharing_at(first) is UNSHARED
