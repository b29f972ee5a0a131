"""The stages crown-ball: their margins against a grid of the disc, and what they leave for a proof."""

from __future__ import annotations

import pytest
import torch
from batches import batch_of, decided
from discs import images_of, least_margins, planar

from llcert.bounds import global_bound
from llcert.certification import BoundsSoFar, CrownBall, Estimator
from llcert.certification.specification import positive
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, MaxMin
from llcert.program import lower

EPS = 0.2


@pytest.mark.parametrize("intermediate", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_margin_is_above_one_that_the_disc_shows(seed: int, *, intermediate: bool) -> None:
    program = lower(planar(seed, layers=2), dtype=torch.float64)
    images, labels = images_of(program, 30)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, labels, EPS)
    stage = CrownBall(estimator, intermediate=intermediate)
    found = decided(stage, program, batch)
    assert found.margin is not None
    assert bool((found.margin <= least_margins(program, images, labels, EPS) + 1e-9).all())
    forward = estimator.refined if intermediate else estimator.masked
    closed = estimator.closed(forward(batch, BoundsSoFar.none(program, 30))[0], labels)
    assert found.so_far is not None
    assert bool((found.so_far.bounds >= closed - 1e-12).all()), "the ascent starts at the closed form"
    assert torch.equal(found.decided, positive(estimator.specification.margin(found.so_far.bounds, labels, 3)))
    assert bool((found.so_far.bounds > closed + 1e-6).any())


def test_the_relaxations_of_what_was_raised_are_in_the_hint() -> None:
    program = lower(planar(1, layers=2), dtype=torch.float64)
    images, labels = images_of(program, 30)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, labels, EPS)
    found = decided(CrownBall(estimator), program, batch)
    closed = estimator.closed(estimator.masked(batch, BoundsSoFar.none(program, 30))[0], labels)
    assert found.so_far is not None
    raised = {(i, j) for i, j in torch.nonzero(found.so_far.bounds > closed + 1e-9).tolist()}
    (hint,) = found.hints
    assert hint.relaxation is not None
    assert raised <= set(zip(hint.relaxation.images.tolist(), hint.relaxation.classes.tolist(), strict=True))
    assert raised


def test_without_intermediate_bounds_their_stage_decides_nothing() -> None:
    hidden = apply(MaxMin(), apply(Linear(torch.eye(2, dtype=torch.float64)), apply(Input((2,), torch.float64))))
    program = lower(Network(apply(Linear(torch.eye(2, dtype=torch.float64)), hidden)), dtype=torch.float64)
    images = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, torch.tensor([0]), 0.01)
    assert decided(CrownBall(estimator), program, batch).decided.all()
    found = decided(CrownBall(estimator, intermediate=True), program, batch)
    assert not found.decided.any()
    assert found.margin is not None
    assert found.margin.isnan().all()
