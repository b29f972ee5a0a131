"""Starts are unit vectors on what a mask leaves, and an image's random vector depends on its own seed alone."""

from __future__ import annotations

import pytest
import torch
from dense import Matrix
from drawing import Draw

from llcert.spectral import Masked, random_start
from llcert.spectral.estimate.start import masked_start


@pytest.mark.parametrize("seed", range(10))
def test_unit_vectors_on_the_columns_that_are_left(seed: int) -> None:
    draw = Draw(seed)
    rows, columns, start = draw.factors(5, 3), draw.factors(5, 4), draw.normal(5, 4)
    rows[1], columns[2] = 0, 0
    start[3] = 0
    start[4] = torch.where(columns[4] == 0, start[4], 0.0)  # nothing of it is left
    unit, empty = masked_start(Masked(Matrix(draw.normal(3, 4)), rows, columns), start)
    assert empty.tolist() == [not (bool(r.any()) and bool(c.any())) for r, c in zip(rows, columns, strict=True)]
    assert bool((unit[columns == 0] == 0).all())
    for vector, own, factors in zip(unit, start * columns, columns, strict=True):
        expected = own if own.any() else factors
        along = expected / torch.linalg.vector_norm(expected) if expected.any() else expected
        torch.testing.assert_close(vector, along)


def test_the_vector_of_a_seed_is_the_same_in_every_batch() -> None:
    like, seeds = torch.zeros((), dtype=torch.float64), torch.tensor([3, 1, 4, 1])
    found = random_start((4, 2, 5), like, seeds)
    for vector, seed in zip(found, seeds.tolist(), strict=True):
        assert torch.equal(vector, random_start((1, 2, 5), like, torch.tensor([seed]))[0])
        assert torch.equal(vector, random_start((1, 2, 5), like, seed)[0])
    assert found.dtype == torch.float64
    assert not torch.equal(found[0], found[1])
