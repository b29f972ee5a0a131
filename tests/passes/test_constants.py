"""Constants are the same only if they stay so, and bounds of two clamps are one clamp's."""

from __future__ import annotations

import itertools

import torch
from drawing import normal
from torch import Tensor

from llcert.passes.constants import always, higher, lower, same


def test_the_same_are_equal_and_stay_equal() -> None:
    """Changing one of two constants that are the same, as training would, never leaves the other behind."""
    plain, trained = torch.zeros(3), torch.zeros(3, requires_grad=True)
    kinds = [plain, plain.clone(), trained, trained.detach().clone().requires_grad_(), trained.view(3)]
    kinds += [torch.zeros(1), torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1), -torch.zeros(3), torch.ones(3)]
    for a, b in itertools.combinations(kinds, 2):
        if same(a, b):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
            if trained is a or trained is b:
                assert a.data_ptr() == b.data_ptr()
        assert same(a, b) == same(b, a)
    assert same(plain, plain.clone())
    assert same(trained, trained.view(3))
    assert not same(trained, trained.detach().clone().requires_grad_())
    assert same(None, None)
    assert not same(None, plain)


def test_a_constant_that_is_trained_is_never_always_a_number() -> None:
    assert always(torch.full((2, 2), 3.0), 3.0)
    assert not always(torch.tensor([3.0, 3.1]), 3.0)
    assert not always(torch.full((2,), 3.0, requires_grad=True), 3.0)
    assert not always(torch.tensor([torch.nan]), torch.nan)
    assert not always(None, 0.0)


def test_bounds_of_two_clamps_are_those_of_one() -> None:
    """`max(max(z, a), b) = max(z, higher(a, b))`, and likewise of minima, whatever broadcasts."""
    shapes = ((), (3,), (2, 1), (2, 3))
    for number, (first, second) in enumerate(itertools.product(shapes, repeat=2)):
        a, b, z = normal(*first, seed=number), normal(*second, seed=number + 100), 3 * normal(2, 3, seed=number + 200)
        for ordered in ((a, b), (a, b + 9), (a, b - 9)):
            for together, one in ((higher, torch.maximum), (lower, torch.minimum)):
                bound = together(*ordered)
                assert bound is not None
                torch.testing.assert_close(one(z, bound), one(one(z, ordered[0]), ordered[1]), rtol=0, atol=0)


def test_no_bound_leaves_the_other_as_it_is() -> None:
    a: Tensor = normal(3)
    for together in (higher, lower):
        assert together(a, None) is a
        assert together(None, a) is a
        assert together(None, None) is None
        assert together(a, a.clone()) is a
