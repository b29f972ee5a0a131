"""Projected gradient descent: what it returns is a witness, and it finds what a formula says is there."""

from __future__ import annotations

import pytest
import torch
from attacks import attacked
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.certification import PGD
from llcert.certification.specification import FIRST, Top
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, Reshape, relu
from llcert.program import Program, lower


def _linear(classes: int, size: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Program:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, size, generator=generator, dtype=torch.float64) * scale
    return lower(Network(apply(Linear(weight.to(dtype)), apply(Input((size,))))), dtype=dtype)


def _deep(seed: int = 0) -> Program:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((2, 4)))
    for rows in (6, 5):
        node = apply(relu(), apply(Linear(torch.randn(rows, node.shape[-1], generator=generator)), node))
    flat = apply(Reshape((10,)), node)
    return lower(Network(apply(Linear(torch.randn(3, 10, generator=generator)), flat)))


def _needed(program: Program, image: Tensor, label: Tensor) -> float:
    """The distance to the nearest decision border of a linear network, in closed form."""
    logits = program.logits(image)[0].double()
    weight = program.blocks[0].terms[0].adjoint(torch.eye(len(logits), dtype=image.dtype)).double()
    y = int(label)
    rivals = [j for j in range(len(logits)) if j != y]
    return min(float((logits[y] - logits[j]) / torch.linalg.vector_norm(weight[j] - weight[y])) for j in rivals)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 30.0]))
@settings(max_examples=25, deadline=None)
def test_finds_what_a_linear_network_of_two_classes_has(seed: int, scale: float) -> None:
    program = _linear(2, 5, seed, scale)
    image = torch.full((1, 5), 0.5, dtype=torch.float64)
    label = program.logits(image).argmax(1)
    needed = _needed(program, image, label)
    if needed < 0.4:  # the ball stays inside the pixel range
        assert attacked(PGD(steps=40), program, image, label, needed / 0.99, seed).refuted.all()
    assert not attacked(PGD(steps=40), program, image, label, needed * 0.999, seed).refuted.any()


@pytest.mark.parametrize("seed", range(10))
def test_finds_the_nearest_of_many_borders(seed: int) -> None:
    program = _linear(6, 5, seed, 30.0)
    image = torch.full((1, 5), 0.5, dtype=torch.float64)
    label = program.logits(image).argmax(1)
    needed = _needed(program, image, label)
    if needed < 0.4:
        assert attacked(PGD(steps=100, restarts=3), program, image, label, needed / 0.95, seed).refuted.all()


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_gradients_of_every_scale_lead_somewhere(scale: float) -> None:
    program = _linear(2, 5, 3, scale, torch.float32)
    image = torch.full((1, 5), 0.5)
    label = program.logits(image).argmax(1)
    assert attacked(PGD(steps=40), program, image, label, _needed(program, image, label) * 1.1, 0).refuted.all()


@pytest.mark.parametrize("eps", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("random_start", [False, True])
def test_points_are_witnesses(eps: float, random_start: bool) -> None:
    program = _deep()
    images = torch.rand(64, 2, 4, generator=torch.Generator().manual_seed(1))
    images[:8] = images[:8].round()  # corners of the pixel range
    labels = program.logits(images).argmax(1)
    found = attacked(PGD(20, restarts=2, random_start=random_start), program, images, labels, eps, 5)
    broken, points = found.refuted, found.points
    distance = torch.linalg.vector_norm((points - images).double().flatten(1), dim=1)
    assert (distance <= eps).all()
    assert (points >= 0).all()
    assert (points <= 1).all()
    assert not FIRST.holds(program.logits(points[broken]), labels[broken], 3).any()
    assert FIRST.holds(program.logits(points[~broken]), labels[~broken], 3).all()
    assert torch.allclose(FIRST.loss(program.logits(points), labels, 3).double(), found.loss)
    if eps > 1:
        assert broken.any()


def test_no_room_breaks_nothing_that_leads() -> None:
    program = _deep()
    images = torch.rand(16, 2, 4, generator=torch.Generator().manual_seed(1))
    labels = program.logits(images).argmax(1)
    assert not attacked(PGD(5), program, images, labels, 0.0, 0).refuted.any()
    assert attacked(PGD(5), program, images, (labels + 1) % 3, 0.0, 0).refuted.all()


def test_points_outside_a_ball_smaller_than_rounding_do_not_count() -> None:
    """The pixels nearest to 0.5 are 6e-8 apart: many projected points lie outside a ball of radius 1e-8."""
    program = _linear(2, 400, 0, dtype=torch.float32)
    images = torch.rand(32, 400, generator=torch.Generator().manual_seed(0))
    found = attacked(PGD(10, restarts=3), program, images, program.logits(images).argmax(1), 1e-8, 0)
    broken, points = found.refuted, found.points
    assert (torch.linalg.vector_norm((points - images).double(), dim=1)[broken] <= 1e-8).all()


def test_an_image_outside_the_pixel_range_moves_to_all_sides() -> None:
    """Only darker or only brighter pixels help: either way the attack finds what a formula says is there."""
    for weight in ([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]):
        bias = torch.tensor([1.0, -1.0] if weight[0][0] else [-1.0, 1.0], dtype=torch.float64)
        network = Network(apply(Linear(torch.tensor(weight, dtype=torch.float64), bias), apply(Input((3,)))))
        program, image = lower(network, dtype=torch.float64), torch.tensor([[-0.5, 0.5, 1.5]], dtype=torch.float64)
        label = program.logits(image).argmax(1)
        needed = _needed(program, image, label)
        assert attacked(PGD(30), program, image, label, 1.01 * needed).refuted.all()
        assert not attacked(PGD(30), program, image, label, 0.99 * needed).refuted.any()


def test_the_seed_decides() -> None:
    program = _deep()
    images = torch.rand(32, 2, 4, generator=torch.Generator().manual_seed(1))
    labels = program.logits(images).argmax(1)
    first, again, other = (attacked(PGD(10), program, images, labels, 0.5, seed) for seed in (3, 3, 4))
    assert torch.equal(first.refuted, again.refuted)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, other.points)


def test_the_first_restart_can_begin_at_the_image() -> None:
    program = _deep()
    images = torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(1))
    labels = program.logits(images).argmax(1)
    here = PGD(10, random_start=False)
    first, again = (attacked(here, program, images, labels, 0.5, seed) for seed in (1, 2))
    assert torch.equal(first.points, again.points)


def test_nan_logits_are_broken() -> None:
    program = lower(Network(apply(Linear(torch.full((2, 3), torch.nan)), apply(Input((3,))))))
    found = attacked(PGD(3), program, torch.full((2, 3), 0.5), torch.tensor([0, 1]), 0.1, 0)
    broken, points = found.refuted, found.points
    assert broken.all()
    assert points.isfinite().all()


def test_it_works_inside_no_grad_and_leaves_no_gradient() -> None:
    program = _deep()
    images = torch.rand(4, 2, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = attacked(PGD(10), program, images, program.logits(images).argmax(1), 3.0, 0)
    assert found.refuted.any()
    assert not found.points.requires_grad
    assert not found.loss.requires_grad


@pytest.mark.parametrize(("patience", "looks"), [(0, 61), (15, 16), (100, 61)])
def test_patience_ends_what_gets_nowhere(patience: int, looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a constant network every step after the first is one without progress."""
    network = Network(apply(Linear(torch.zeros(2, 3), torch.tensor([1.0, 0.0])), apply(Input((3,)))))
    seen: list[int] = []
    real = Top.loss

    def counted(specification: Top, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        seen.append(len(logits))
        return real(specification, logits, labels, classes)

    monkeypatch.setattr(Top, "loss", counted)
    attack = PGD(steps=60, patience=patience)
    labels = torch.zeros(2, dtype=torch.int64)
    assert not attacked(attack, lower(network), torch.rand(2, 3), labels, 0.5).refuted.any()
    assert seen == [2] * looks
