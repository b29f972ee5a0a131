"""A float32 value that is cast to float64 and back is itself; every other pair of casts stays."""

from __future__ import annotations

import itertools

import pytest
import torch

from llcert.ir import Input, Node, apply
from llcert.ops import Cast
from llcert.passes.cast import widened_and_back

FORMATS = (torch.float32, torch.float64)


def cast_twice(start: torch.dtype, between: torch.dtype, end: torch.dtype) -> Node:
    return apply(Cast(end), apply(Cast(between), apply(Input((4,), start))))


@pytest.mark.parametrize("formats", [*itertools.product(FORMATS, repeat=3)], ids=str)
def test_a_pair_goes_only_where_it_changes_no_value(formats: tuple[torch.dtype, ...]) -> None:
    """Random bits as values: what goes is the identity on every finite number, by torch's own casts."""
    start, between, end = formats
    bits = torch.randint(-(2**31), 2**31, (10_000,), generator=torch.Generator().manual_seed(0))
    values = bits.int().view(torch.float32).to(start) if start == torch.float32 else (bits * 2**31).view(torch.float64)
    values = values[values.isfinite()]
    unchanged = start == end and torch.equal(values.to(between).to(end), values)
    found = widened_and_back(cast_twice(*formats))
    if found is not None:
        assert unchanged
        assert isinstance(found.op, Input)
    assert (found is not None) == (start == end and between == torch.float64)


def test_one_cast_stays() -> None:
    assert widened_and_back(apply(Cast(torch.float64), apply(Input((4,))))) is None
