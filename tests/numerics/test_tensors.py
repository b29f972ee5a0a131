"""Norms over the whole range of float64, against exact arithmetic; axes that are flattened and numbers that spread."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from drawing import normal

from llcert.numerics.tensors import channels_last, flat, length, spread


def root(exact: Fraction) -> float:
    """The square root of a fraction, of any size, to a few roundings."""
    exponent = (exact.numerator.bit_length() - exact.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(exact / Fraction(4) ** exponent), exponent) if exact else 0.0


@pytest.mark.parametrize("exponent", [-1060, -1020, -600, -500, -1, 0, 400, 520, 1018])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_square_overflows_or_underflows(exponent: int, dtype: torch.dtype) -> None:
    exponent = exponent if dtype == torch.float64 else exponent // 9
    values = torch.ldexp(normal(3, 2, 4), torch.tensor(exponent)).to(dtype)
    values[1] = 0
    found = length(values)
    for one, norm in zip(values, found.tolist(), strict=True):
        exact = root(sum((Fraction(v) ** 2 for v in one.flatten().tolist()), Fraction(0)))
        assert norm == pytest.approx(exact, rel=1e-14 if dtype == torch.float64 else 1e-6, abs=0.0)


def test_sizes_that_differ_by_the_whole_range() -> None:
    found = length(torch.tensor([[1e300, 1e-300, 1e300], [1e-300, 0.0, 1e-300]], dtype=torch.float64))
    assert found.tolist() == pytest.approx([math.sqrt(2) * 1e300, math.sqrt(2) * 1e-300], rel=1e-15)


def test_nan_and_infinity_stay() -> None:
    found = length(torch.tensor([[1.0, torch.nan], [1.0, -torch.inf]], dtype=torch.float64))
    assert math.isnan(found[0])
    assert not math.isfinite(found[1])


def test_values_without_entries_have_length_zero() -> None:
    assert length(torch.zeros(3, 0, dtype=torch.float64)).tolist() == [0, 0, 0]


def test_shapes() -> None:
    values = normal(2, 3, 4, 5)
    assert torch.equal(flat(values), values.reshape(2, -1))
    assert torch.equal(flat(values, 2), values.reshape(2, 3, -1))
    assert flat(torch.zeros(2)).shape == (2, 1)
    each = torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert torch.equal(values * spread(each, values), torch.stack([2 * values[0], 3 * values[1]]))
    assert torch.equal(channels_last(values), values)
