"""Chains of minima and maxima with constants."""

from __future__ import annotations

import itertools

import pytest
import torch
from pass_graphs import canonical, image, labels
from torch import Tensor

from llcert.ir import Node, apply
from llcert.ops import Add, Affine, Clamp, relu
from llcert.passes import clamp

BOUNDS: list[Tensor | None] = [None, torch.tensor(-1.0), torch.tensor([-0.5, 0.0, 2.0]), torch.tensor(0.7)]
MINUS = torch.tensor(-1.0)


@pytest.mark.parametrize("inner", list(itertools.product(BOUNDS, BOUNDS)))
def test_two_clamps_are_one_for_every_order_of_bounds(inner: tuple[Tensor | None, Tensor | None]) -> None:
    for outer in itertools.product(BOUNDS, BOUNDS):
        before = apply(Clamp(*outer), apply(Clamp(*inner), image(3)))
        assert len(labels(canonical(before))) <= 1


def test_relu_then_minimum_keeps_the_threshold_itself() -> None:
    theta = torch.rand(3, requires_grad=True)
    for before in (
        apply(Clamp(high=theta), apply(relu(), image(3))),
        apply(relu(), apply(Clamp(high=theta), image(3))),
        apply(relu(), apply(Clamp(high=theta), apply(relu(), image(3)))),
    ):
        (node,) = (n for n in (canonical(before),))
        assert labels(node) == ["ReLU-theta"]
        assert node.op.tensors()["high"] is theta


def test_trained_bounds_that_may_change_places_are_left_alone() -> None:
    a, b = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    assert clamp.merge(apply(Clamp(high=a), apply(Clamp(high=b), image(3)))) is None
    assert clamp.merge(apply(Clamp(low=a), apply(Clamp(low=torch.zeros(())), image(3)))) is None
    assert clamp.merge(apply(Clamp(low=torch.ones(())), apply(Clamp(high=a), image(3)))) is None
    assert clamp.merge(apply(relu(), apply(Affine(MINUS), image(3)))) is None


def test_bounds_that_bind_nowhere_go() -> None:
    inf = torch.full((3,), torch.inf)
    assert labels(canonical(apply(Clamp(-inf, inf), image(3)))) == []
    assert labels(canonical(apply(Clamp(torch.zeros(()), inf), image(3)))) == ["ReLU"]
    mixed = Clamp(high=torch.tensor([1.0, torch.inf, 2.0]))
    assert clamp.drop_infinite_bounds(apply(mixed, image(3))) is None
    assert clamp.drop_infinite_bounds(apply(Clamp(low=inf), image(3))) is None


def reflected(x: Node, outer: Tensor, inner: Tensor, bend: Clamp) -> Node:
    return apply(Affine(MINUS, outer), apply(bend, apply(Affine(MINUS, inner), x)))


def test_reflection_is_a_minimum() -> None:
    theta = torch.rand(3)
    before = reflected(apply(relu(), image(3)), theta, theta.clone(), relu())
    assert labels(canonical(before)) == ["ReLU-theta"]
    assert labels(canonical(reflected(image(3), -theta, -theta, relu()))) == ["Clamp"]


def test_other_reflections_stay() -> None:
    theta = torch.rand(3)
    for before in (
        reflected(image(3), theta, theta + 1, relu()),
        reflected(image(3), theta, theta, Clamp(torch.zeros(()), theta)),
        reflected(image(3), theta, theta, Clamp(theta)),
        apply(Affine(torch.tensor(-2.0), theta), apply(relu(), apply(Affine(MINUS, theta), image(3)))),
        reflected(image(1), theta, theta, relu()),
    ):
        assert clamp.unreflect(before) is None
    trained = torch.rand(3, requires_grad=True)
    assert clamp.unreflect(reflected(image(3), trained, trained.detach().clone(), relu())) is None


def excess(x: Node, theta: Tensor) -> Node:
    return apply(Affine(MINUS), apply(relu(), apply(Affine(shift=-theta), x)))


def test_removed_excess_is_a_minimum() -> None:
    theta, x = torch.rand(3), image(3)
    positive = apply(relu(), x)
    assert labels(canonical(apply(Add(), positive, excess(x, theta)))) == ["ReLU-theta"]
    assert labels(canonical(apply(Add(), excess(positive, theta), positive))) == ["ReLU-theta"]
    assert labels(canonical(apply(Add(), x, excess(x, -theta)))) == ["Clamp"]


def test_other_sums_stay() -> None:
    theta, x = torch.rand(3), image(3)
    positive = apply(relu(), x)
    for before in (
        apply(Add(), positive, excess(x, -theta)),
        apply(Add(), positive, apply(relu(), apply(Affine(shift=-theta), x))),
        apply(Add(), apply(Affine(torch.tensor(2.0)), x), excess(x, theta)),
        apply(Add(), x, excess(x, theta), x),
    ):
        assert clamp.excess_removed(before) is None
