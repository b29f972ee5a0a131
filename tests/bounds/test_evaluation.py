"""Logits in exact fractions, and in float32 in any order of sums, lie within the rounding that is stated for points."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from drawing import normal32
from torch import Tensor

from llcert.bounds.evaluation import Evaluation, evaluation, least_evaluation
from llcert.ir import Input, Network, Node, apply
from llcert.ops import Add, Linear, relu
from llcert.program import Program, lower

CLASSES, IMAGES = 3, 5


def _network(seed: int, *, clipped: bool) -> tuple[Program, tuple[Tensor, ...]]:
    """`[relu](D (relu(A x) + B x) + d)`, float32 weights, and these."""
    a, b, d = normal32(4, 6, seed=seed), normal32(4, 6, seed=seed + 1), normal32(CLASSES, 4, seed=seed + 2)
    offset = normal32(CLASSES, seed=seed + 3)
    image = apply(Input((6,)))
    total: Node = apply(Add(), apply(relu(), apply(Linear(a), image)), apply(Linear(b), image))
    logits = apply(Linear(d, offset), total)
    network = Network(apply(relu(), logits) if clipped else logits)
    return lower(network, dtype=torch.float64), (a, b, d, offset)


def _product(matrix: Tensor, vector: list[Fraction]) -> list[Fraction]:
    return [sum((Fraction(w) * x for w, x in zip(row, vector, strict=True)), Fraction(0)) for row in matrix.tolist()]


def _exact(weights: tuple[Tensor, ...], image: Tensor, *, clipped: bool) -> list[Fraction]:
    """The logits in real numbers."""
    a, b, d, offset = weights
    x = [Fraction(v) for v in image.tolist()]
    total = [max(p, Fraction(0)) + q for p, q in zip(_product(a, x), _product(b, x), strict=True)]
    logits = [p + Fraction(o) for p, o in zip(_product(d, total), offset.tolist(), strict=True)]
    return [max(z, Fraction(0)) if clipped else z for z in logits]


def _singly(weights: tuple[Tensor, ...], images: Tensor, order: Tensor, *, clipped: bool) -> Tensor:
    """The logits in float32, every sum term by term in an order of the inputs."""
    a, b, d, offset = weights

    def product(matrix: Tensor, x: Tensor, places: Tensor) -> Tensor:
        total = torch.zeros(len(x), len(matrix))
        for place in places.tolist():
            total = total + matrix[:, place] * x[:, place : place + 1]
        return total

    total = product(a, images, order).relu() + product(b, images, order.flip(0))
    logits = product(d, total, order[order < 4]) + offset
    return logits.relu() if clipped else logits


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_exact_and_deployed_logits_lie_within(seed: int, clipped: bool) -> None:
    program, weights = _network(10 * seed, clipped=clipped)
    images = normal32(IMAGES, 6, seed=seed + 5)
    found = evaluation(program, images)
    assert found.values.shape == found.rounding.shape == (IMAGES, CLASSES)
    for image, values, rounding in zip(images, found.values.tolist(), found.rounding.tolist(), strict=True):
        for exact, value, error in zip(_exact(weights, image, clipped=clipped), values, rounding, strict=True):
            assert abs(Fraction(value) - exact) <= Fraction(error)
    for number in range(20):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(number))
        deployed = _singly(weights, images, order, clipped=clipped)
        assert bool(((deployed.double() - found.values).abs() <= found.rounding).all())
        assert bool((found.excess(deployed) <= 0).all())
    assert float(found.rounding.max()) < 1e-4


def test_the_last_block_alone_rounds_less() -> None:
    for seed in range(5):
        program, _ = _network(10 * seed, clipped=False)
        images = normal32(IMAGES, 6, seed=seed)
        every, last = evaluation(program, images), least_evaluation(program, images)
        torch.testing.assert_close(last.values, every.values, rtol=1e-12, atol=1e-12)
        assert bool((last.rounding <= every.rounding).all())
        assert bool((last.rounding > 0).all())


def test_what_exceeds_rounding() -> None:
    """By how much a difference of two logits is off beyond both roundings; one shift of all logits changes none."""
    found = Evaluation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.1, 0.2, 0.3]]))
    assert float(found.excess(torch.tensor([[6.0, 7.0, 8.0]]))) <= 0
    assert float(found.excess(torch.tensor([[2.0, 2.0, 3.0]]))) == pytest.approx(1 - 0.1 - 0.2, rel=1e-6)
    assert float(found.excess(torch.tensor([[torch.nan, 2.0, 3.0]]))) == torch.inf
