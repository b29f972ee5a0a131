"""Functions with derivatives of our own: values and gradients are torch's, with ties, zeros and broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.numerics import gradients

SHAPES = [((3, 4, 5), (3, 4, 5)), ((3, 4, 5), (4, 5)), ((3, 4, 5), ()), ((3, 4, 1), (3, 1, 5)), ((0, 4), (4,))]
PAIRS = {torch.maximum: gradients.maximum, torch.minimum: gradients.minimum}
Function = Callable[..., Tensor]


def whole_numbers(*shape: int, seed: int) -> Tensor:
    """Few different values, so that many are equal, and many are zero."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).to(torch.float32)


def outcome(function: Function, values: list[Tensor], wanted: list[bool]) -> list[Tensor]:
    """The value, and the gradients of those that want one, at a random gradient of the value."""
    leaves = [v.clone().requires_grad_(w) for v, w in zip(values, wanted, strict=True)]
    value = function(*leaves)
    given = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return [value, *torch.autograd.grad(value, [v for v, w in zip(leaves, wanted, strict=True) if w], given)]


def alike(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("reference", PAIRS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("wanted", [[True, True], [True, False], [False, True]])
def test_the_greater_and_the_lesser(
    reference: Function, shapes: tuple[tuple[int, ...], ...], wanted: list[bool]
) -> None:
    values = [whole_numbers(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    alike(outcome(PAIRS[reference], values, wanted), outcome(reference, values, wanted))


@pytest.mark.parametrize("reference", PAIRS, ids=lambda f: f.__name__)
def test_infinities_are_ordered_and_nan_stays(reference: Function) -> None:
    ends = torch.tensor([-torch.inf, -1.0, torch.inf])
    values = [ends.repeat(3), ends.repeat_interleave(3)]
    alike(outcome(PAIRS[reference], values, [True, True]), outcome(reference, values, [True, True]))
    assert PAIRS[reference](torch.tensor([torch.nan, 1.0]), torch.tensor([1.0, torch.nan])).isnan().all()


@given(seed=st.integers(0, 1000), start=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_length(seed: int, start: int) -> None:
    x = whole_numbers(3, 2, 4, 2, seed=seed)
    x[0] = 0
    axes = tuple(range(start, x.ndim))
    ours = outcome(lambda x: gradients.length(x, start), [x], [True])
    alike(ours, outcome(lambda x: torch.linalg.vector_norm(x, dim=axes), [x], [True]))


def test_length_of_numbers_whose_squares_vanish() -> None:
    x = torch.full((1, 4), 1e-30)
    value, slope = outcome(lambda x: gradients.length(x, 1), [x], [True])
    torch.testing.assert_close(value, torch.tensor([2e-30]))
    torch.testing.assert_close(
        slope.abs().sum(), torch.randn(1, generator=torch.Generator().manual_seed(1)).abs()[0] * 2
    )


def test_root() -> None:
    x = torch.tensor([4.0, 1e-30, torch.inf], requires_grad=True)
    value = gradients.root(x)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), torch.tensor([2.0, 1e-15, torch.inf]))
    torch.testing.assert_close(x.grad, torch.tensor([0.25, 0.5e15, 0.0]))


def test_root_is_level_at_zero_and_nan_below() -> None:
    x = torch.tensor([0.0, -1.0], requires_grad=True)
    value = gradients.root(x)
    value.backward(torch.tensor([torch.inf, 1.0]))
    assert value.tolist()[0] == 0
    assert value[1].isnan()
    assert x.grad is not None
    assert x.grad[0] == 0


@pytest.mark.parametrize("function", [gradients.maximum, gradients.minimum])
def test_nothing_is_recorded_where_nothing_is_differentiated(function: Function) -> None:
    x = torch.zeros(2, requires_grad=True)
    assert function(x, x + 1).grad_fn is not None
    assert function(x.detach(), x.detach()).grad_fn is None
    with torch.no_grad():
        assert not function(x, x + 1).requires_grad


def test_a_gradient_over_a_tiny_length_does_not_overflow() -> None:
    x = torch.tensor([[2e-36, 0.0, -1e-36], [0.0, 0.0, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(gradients.length(x, 1), x, torch.tensor([1e3, 1e3]))
    expected = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]) * 1e3 / 5**0.5
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_sorted_pairs(kind: torch.dtype, form: torch.memory_format) -> None:
    """Values and gradients are those of maximum and minimum wherever the two differ, bit for bit."""
    pairs = torch.randperm(4 * 6 * 3 * 2, generator=torch.Generator().manual_seed(0)).reshape(4, 6, 3, 2) - 60
    given = torch.randn(4, 6, 3, 2, generator=torch.Generator().manual_seed(1)).to(kind)
    given[0, 0, 0, 0], given[0, 3, 0, 0] = torch.inf, -torch.inf
    z = pairs.to(kind).contiguous(memory_format=form).requires_grad_()
    value = gradients.sorted_pairs(z, 1)
    a, b = z.chunk(2, 1)
    expected = torch.cat((torch.maximum(a, b), torch.minimum(a, b)), 1)
    assert torch.equal(value, expected)
    assert torch.equal(gradients.sorted_pairs(z.detach(), 1), expected)
    (first,) = torch.autograd.grad(value, z, given)
    larger, smaller = given.chunk(2, 1)
    exchanged = a < b
    wanted = torch.cat((torch.where(exchanged, smaller, larger), torch.where(exchanged, larger, smaller)), 1)
    assert torch.equal(first, wanted)


def test_equal_pairs_keep_their_places() -> None:
    z = torch.zeros(1, 4, requires_grad=True)
    given = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(torch.autograd.grad(gradients.sorted_pairs(z, 1), z, given)[0], given)


def test_sorted_pairs_along_any_axis() -> None:
    z = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    for axis in (0, 1, 2):
        even = z[:2] if axis == 0 else z
        assert torch.autograd.gradcheck(lambda x, axis=axis: gradients.sorted_pairs(x, axis), even)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_distances(kind: torch.dtype) -> None:
    """Values and gradients are torch's, rows that are equal included, of which one gradient is zero."""
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).to(kind) + 3
    rows[3] = rows[1]
    ours, theirs = (rows.clone().requires_grad_() for _ in range(2))
    value, expected = gradients.distances(ours), torch.cdist(theirs, theirs)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert value[1, 3] == 0
    given = torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).to(kind)
    value.backward(given)
    expected.backward(given)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_distances_of_rows_that_are_close() -> None:
    """A thousandth of their length apart: no digit of float32 is lost."""
    rows = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)) * 1e-3 + 1
    exact = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(gradients.distances(rows), exact.float(), rtol=1e-6, atol=0)
