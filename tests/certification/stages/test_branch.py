"""The stage branch: with time enough it certifies whatever a grid of the disc does not refute, and nothing else."""

from __future__ import annotations

import pytest
import torch
from batches import batch_of, decided
from discs import images_of, least_margins, planar

from llcert.bounds import global_bound
from llcert.bounds.backward.branch_and_bound import BranchAndBound
from llcert.certification import Branch, CrownBall, Estimator
from llcert.program import lower

EPS = 0.25


@pytest.mark.parametrize("seed", range(3))
def test_it_ends_with_the_truth(seed: int) -> None:
    program = lower(planar(seed), dtype=torch.float64)
    images, labels = images_of(program, 10)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, labels, EPS)
    found = decided(Branch(estimator, BranchAndBound(seconds=20.0)), program, batch)
    truth = least_margins(program, images, labels, EPS)
    assert found.margin is not None
    assert bool((found.margin <= truth + 1e-9).all())
    clear = truth.abs() > 0.02
    assert torch.equal(found.decided[clear], truth[clear] > 0)
    assert bool(found.decided.any())
    assert not bool(found.decided.all())


def test_the_parts_of_the_ball_are_in_the_hint() -> None:
    program = lower(planar(0), dtype=torch.float64)
    images, labels = images_of(program, 10)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, labels, EPS)
    (hint,) = decided(Branch(estimator, BranchAndBound(seconds=20.0)), program, batch).hints
    assert hint.cover is not None
    images_of_rows = hint.cover.images[hint.cover.leaves.rows]
    assert len(images_of_rows) == len(hint.cover.leaves)
    assert len(hint.cover.leaves) > len(hint.cover.images), "some ball was cut"
    assert hint.cover.classes.ne(labels[hint.cover.images]).all()


def test_without_time_it_is_the_closed_form() -> None:
    program = lower(planar(0), dtype=torch.float64)
    images, labels = images_of(program, 10)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, labels, EPS)
    hasty = decided(Branch(estimator, BranchAndBound(seconds=1e-9)), program, batch)
    ascended = decided(CrownBall(estimator), program, batch)
    assert not bool((hasty.decided & ~ascended.decided).any())
