"""Transpositions and reshapes that move towards the output."""

from __future__ import annotations

import pytest
import torch
from pass_graphs import canonical, image, labels

from llcert.ir import Node, Op, apply, evaluate
from llcert.ops import Add, Affine, Clamp, Concat, GroupSort, Leaky, Linear, MaxMin, Reshape, Sigmoid, Transpose, relu
from llcert.passes import sink

FORTH, BACK = Transpose((1, 2, 0)), Transpose((2, 0, 1))


@pytest.mark.parametrize(
    "op",
    [
        relu(),
        Sigmoid(),
        Clamp(torch.zeros(()), torch.rand(3, 5, 4)),
        Affine(torch.rand(4), torch.rand(5, 1)),
        Leaky(torch.rand(4)),
        MaxMin(2, True, torch.rand(2)),
        MaxMin(2, False, None, -torch.rand(3, 1, 2)),
        GroupSort(2, 2),
    ],
)
def test_layout_changes_around_an_activation_cancel(op: Op) -> None:
    before = apply(BACK, apply(op, apply(FORTH, image(4, 3, 5))))
    assert labels(canonical(before)) == [op.label]


def test_layout_changes_around_sums_and_concatenations_cancel() -> None:
    x = image(4, 3, 5)
    a, b = (apply(FORTH, apply(op, x)) for op in (relu(), Sigmoid()))
    for join, expected in ((Add(), "Add"), (Concat(2), "Concat")):
        assert labels(canonical(apply(BACK, apply(join, a, b)))) == ["ReLU", "Sigmoid", expected]


def test_a_reshape_passes_what_treats_all_entries_alike() -> None:
    before = apply(Reshape((4, 3)), apply(relu(), apply(Reshape((12,)), image(4, 3))))
    assert labels(canonical(before)) == ["ReLU"]


@pytest.mark.parametrize("op", [Affine(torch.full((1, 1, 1), 2.0)), Leaky(torch.rand(1, 1, 1))])
def test_one_number_with_more_axes_than_the_value_behind_the_reshape(op: Op) -> None:
    x = torch.rand(2, 12)
    before = apply(op, apply(Reshape((1, 4, 3)), image(12)))
    after = sink.below_reshape(before)
    assert after is not None
    assert after.shape == before.shape
    assert torch.equal(evaluate(after, x), evaluate(before, x))


def test_one_trained_number_with_more_axes_stays_where_it_is() -> None:
    trained = torch.ones(1, 1, 1, requires_grad=True)
    assert not fires(apply(Affine(trained), apply(Reshape((1, 4, 3)), image(12))))


def fires(node: Node) -> bool:
    return sink.below_transposition(node) is not None or sink.below_reshape(node) is not None


def test_declines() -> None:
    x = image(4, 3)
    moved, flat = apply(Transpose((1, 0)), x), apply(Reshape((12,)), x)
    assert not fires(apply(Linear(torch.rand(2, 4)), moved))
    assert not fires(apply(Leaky(torch.rand(12)), flat))
    assert not fires(apply(MaxMin(0), flat))
    assert not fires(apply(Clamp(high=torch.rand(4, requires_grad=True)), moved))
    assert not fires(apply(relu(), x))
    assert not fires(apply(Affine(torch.rand(2, 1)), apply(Transpose((1, 0)), image(4, 1))))
    assert not fires(apply(Add(), moved, apply(relu(), image(3, 4))))
    assert not fires(apply(Add(), moved, apply(Reshape((3, 4)), x)))
    square = image(3, 3, 3)
    assert not fires(apply(Add(), apply(FORTH, square), apply(BACK, square)))
