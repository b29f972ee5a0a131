"""Equal operators on equal values become one node."""

from __future__ import annotations

import torch
from pass_graphs import canonical, image, labels

from llcert.ir import Node, Op, apply
from llcert.ops import Add, Affine, Clamp, Leaky, Take, relu


def twice(first: Op, second: Op) -> Node:
    x = image(3)
    return apply(Add(), apply(first, x), apply(second, x))


def test_equal_operators_are_shared() -> None:
    trained = torch.rand(3, requires_grad=True)
    for first, second in (
        (relu(), relu()),
        (Take(0, (0, 0, 1)), Take(0, (0, 0, 1))),
        (Clamp(high=torch.ones(3)), Clamp(high=torch.ones(3))),
        (Leaky(trained), Leaky(trained)),
        (Leaky(trained), Leaky(trained.view(3))),
    ):
        assert len(labels(canonical(twice(first, second)))) == 2


def test_different_operators_are_not() -> None:
    trained = torch.rand(3, requires_grad=True)
    for first, second in (
        (relu(), Leaky(torch.zeros(()))),
        (Leaky(torch.ones(3)), Leaky(torch.ones(1))),
        (Leaky(torch.ones(1)), Leaky(torch.ones(1, dtype=torch.float64))),
        (Leaky(trained), Leaky(trained.detach().clone().requires_grad_())),
        (Leaky(trained), Leaky(trained.detach().clone())),
        (Affine(torch.full((3,), 2.0)), Affine(None, torch.full((3,), 2.0))),
    ):
        assert len(labels(canonical(twice(first, second)))) == 3
