"""MaxMin, GroupSort and ReLU-theta are recognised in the many ways in which modules spell them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ops import Clamp
from llcert.ops.clamp import Spelling

from .exporting import Body, Function, agree, labels, of


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2, 1)
    return torch.maximum(a, b), torch.minimum(a, b)


def neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x[:, ::2], x[:, 1::2]
    return torch.max(a, b), torch.min(a, b)


def interleaved(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack((first, second), 2).flatten(1, 2)


def channels_last(x: Tensor) -> Tensor:
    a, b = x.permute(0, 2, 3, 1).split(2, -1)
    return torch.cat((torch.max(a, b), torch.min(a, b)), -1).permute(0, 3, 1, 2)


MAXMIN: dict[str, Function] = {
    "halves": lambda x: torch.cat(halves(x), 1),
    "halves by slices": lambda x: torch.cat((torch.max(x[:, :2], x[:, 2:]), torch.min(x[:, 2:], x[:, :2])), 1),
    "halves by view": lambda x: (lambda y: torch.cat((y.amax(1), y.amin(1)), 1))(x.view(x.shape[0], 2, 2, 3, 3)),
    "pairs by slices": lambda x: interleaved(*neighbours(x)),
    "pairs by reductions": lambda x: (lambda y: torch.stack((y.amax(2), y.amin(2)), 2).view(x.shape))(
        x.view(x.shape[0], 2, 2, 3, 3)
    ),
    "pairs by max along": lambda x: (
        lambda y: torch.cat((y.max(2, keepdim=True)[0], y.min(2, keepdim=True)[0]), 2).reshape(x.shape)
    )(x.reshape(-1, 2, 2, 3, 3)),
    "channels last": channels_last,
    "last axis": lambda x: (lambda p: torch.cat((torch.max(*p), torch.min(*p)), -1))(x[..., :2].chunk(2, -1)),
}


@pytest.mark.parametrize("name", MAXMIN)
def test_maxmin_spelling(name: str) -> None:
    found = of(MAXMIN[name], 4, 3, 3)
    assert found == (["Take", "MaxMin"] if name == "last axis" else ["MaxMin"])


MIN_FIRST: dict[str, Function] = {
    "halves": lambda x: torch.cat(halves(x)[::-1], 1),
    "pairs, as torchlip": lambda x: interleaved(*neighbours(x)[::-1]) * 1.0,
    "pairs to halves": lambda x: torch.cat(neighbours(x), 1),
}


@pytest.mark.parametrize("name", MIN_FIRST)
def test_maxmin_in_another_order_leaves_one_permutation(name: str) -> None:
    assert sorted(of(MIN_FIRST[name], 4, 3, 3)) == ["MaxMin", "Take"]


CLIPPED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "halves": lambda x, t, s: torch.cat((torch.minimum(halves(x)[0], t), torch.maximum(halves(x)[1], s)), 1),
    "pairs": lambda x, t, s: interleaved(torch.minimum(neighbours(x)[0], t), torch.maximum(neighbours(x)[1], s)),
}


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_maxmin_keeps_the_modules_thresholds(name: str) -> None:
    module = Body(
        lambda x: CLIPPED[name](x, module.high, module.low), high=torch.rand(2, 3, 3), low=-torch.rand(2, 3, 3)
    )
    network = agree(module, 4, 3, 3)
    assert labels(network) == ["clipped MaxMin"]
    (node,) = (n for n in network.operators() if n.op.label == "clipped MaxMin")
    assert node.op.tensors()["high"] is module.high
    assert node.op.tensors()["low"] is module.low


def test_a_maxmin_clipped_by_sums_keeps_what_they_round() -> None:
    """`t - relu(t - max(x, y))`: a MaxMin is exact."""
    t = torch.rand(2, 3, 3)
    body = Body(lambda x: torch.cat((t - F.relu(t - halves(x)[0]), halves(x)[1]), 1))
    clamps = [n.op for n in agree(body, 4, 3, 3).operators() if isinstance(n.op, Clamp)]
    assert [c.spelling for c in clamps] == [Spelling.REFLECTED]


GROUPSORT: dict[str, Function] = {
    "groups": lambda x: x.view(x.shape[0], 2, 3).sort(2).values.flatten(1),
    "by topk": lambda x: x.reshape(-1, 2, 3).topk(3, dim=2, largest=False)[0].reshape(-1, 6),
}


@pytest.mark.parametrize("name", GROUPSORT)
def test_groupsort_spelling(name: str) -> None:
    assert of(GROUPSORT[name], 6) == ["GroupSort(3)"]


THETA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu, minimum": lambda x, t: torch.minimum(F.relu(x), t),
    "minimum, relu": lambda x, t: F.relu(torch.min(x, t)),
    "clamp min, minimum": lambda x, t: torch.min(x.clamp(min=0), t),
    "clamp with tensors": lambda x, t: x.clamp(min=torch.zeros(()), max=t),
    "two reflections": lambda x, t: t - F.relu(t - F.relu(x)),
    "relu, reflection outside": lambda x, t: F.relu(t - F.relu(t - x)),
}


@pytest.mark.parametrize("name", THETA)
def test_relu_theta_spelling(name: str) -> None:
    module = Body(lambda x: THETA[name](x, module.theta), theta=torch.rand(4, 3, 3))
    network = agree(module, 4, 3, 3)
    assert labels(network) == ["ReLU-theta"]
    (node,) = (n for n in network.operators() if n.op.label == "ReLU-theta")
    assert node.op.tensors()["high"] is module.theta


def test_relu_theta_by_difference() -> None:
    theta = torch.rand(6)
    assert of(lambda x: F.relu(x) - F.relu(x - theta), 6) == ["ReLU-theta"]
