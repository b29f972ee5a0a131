"""Sums, lengths and gamma lie on the safe side of the exact values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from llcert.checker.numbers import down, gamma, least_product, length, up

SEEDS = range(30)
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_and_lengths_are_on_their_side_of_the_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=30) * 10.0 ** rng.integers(-8, 8, 30) for _ in range(2))
    exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))
    assert Fraction(least_product(a, b)) <= exact
    assert Fraction(length(a)) ** 2 >= sum(Fraction(x) ** 2 for x in a)
    assert length(np.zeros(3)) == 0
    tiny = np.array([1e-200])
    assert length(tiny) > 0
    assert down(1.0) < 1 < up(1.0)


def test_gamma_is_not_below_the_truth_and_ends() -> None:
    for n in (0, 1, 5, 10**6):
        assert Fraction(gamma(n)) >= Fraction(n, 2**53) / (1 - Fraction(n, 2**53))
    assert gamma(0) == 0
    assert gamma(2**52) == math.inf
