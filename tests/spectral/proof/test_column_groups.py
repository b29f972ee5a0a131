"""Groups of columns against the matrix itself: together they are all columns, and no two of a group meet in a row."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from dense import Matrix
from random_layers import random_layer
from torch import Tensor

from llcert.spectral import Provable
from llcert.spectral.proof.column_groups import CANDIDATES, Axis, axes_of, groups_of

CPU = torch.device("cpu")


def paths(map_: Provable) -> np.ndarray:
    """The number of paths from every entry to every output, `[rows, columns]`, by unit vectors."""
    unit = torch.eye(math.prod(map_.columns), dtype=torch.float64).reshape(-1, *map_.columns)
    return map_.paths(unit).flatten(1).T.numpy()


def admissible(map_: Provable, axis: int, period: int) -> bool:
    """Whether no row sees two coordinates of an axis that differ by a multiple of the period."""
    coordinate = np.indices(map_.columns)[axis].ravel() if map_.columns else np.zeros(1, int)
    for row in paths(map_) > 0:
        for offset in range(period):
            seen = set(coordinate[row & (coordinate % period == offset)])
            if len(seen) > 1:
                return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_periods_are_the_least_that_are_admissible(seed: int) -> None:
    map_ = random_layer(seed).masked.map
    assert isinstance(map_, Provable)
    for number, axis in enumerate(axes_of(map_, CPU)):
        candidates = [p for p in CANDIDATES if p < axis.size and admissible(map_, number, p)]
        assert axis.period == min(candidates, default=axis.size), (seed, number)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_groups_hold_every_column_once_and_name_it(seed: int, most: int) -> None:
    map_ = random_layer(seed).masked.map
    assert isinstance(map_, Provable)
    axes, met = axes_of(map_, CPU), paths(map_) > 0
    held = np.zeros(met.shape[1], int)
    for groups in groups_of(axes, most):
        marks = groups.marks().flatten(1).numpy()
        assert len(marks) <= most
        held += marks.sum(0).astype(int)
        for number, group in enumerate(marks > 0):
            readers = met[:, group].sum(1)
            assert readers.max(initial=0) <= 1, "two columns of a group meet in a row"
            rows = np.flatnonzero(readers)
            named = groups.columns(torch.full((len(rows),), number), torch.from_numpy(rows))
            assert np.array_equal(named.numpy(), np.flatnonzero(group)[met[rows][:, group].argmax(1)])
    assert (held == 1).all()


def test_columns_that_meet_in_one_row_alone_do_not_share() -> None:
    """A diagonal matrix whose first and last columns meet in one more row."""
    entries = torch.eye(7, dtype=torch.float64)
    entries[3, 0] = entries[3, 6] = 1.0
    (axis,) = axes_of(Matrix(entries), CPU)
    assert [p for p in CANDIDATES if admissible(Matrix(entries), 0, p)] == [4, 5, 8]
    assert axis.period == 4


def test_counts_that_float64_does_not_hold_are_not_relied_on() -> None:
    """Paths that are too many to be counted exactly make no period admissible."""

    class Crowded(Matrix):
        def paths(self, x: Tensor) -> Tensor:
            return super().paths(x) * 2.0**45

    (axis,) = axes_of(Crowded(torch.eye(6, dtype=torch.float64)), CPU)
    assert axis.period == axis.size == 6


def test_a_value_of_one_entry_without_axes() -> None:
    (groups,) = groups_of((), 5)
    assert groups.marks().shape == (1,)
    assert groups.columns(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).tolist() == [0]


@pytest.mark.parametrize("sizes", [(3,), (4, 6), (2, 3, 5)])
def test_whole_axes_are_one_column_a_group(sizes: tuple[int, ...]) -> None:
    axes = tuple(Axis(n, n, torch.zeros(n, 1, dtype=torch.int64)) for n in sizes)
    marks = torch.cat([g.marks() for g in groups_of(axes, 4)]).flatten(1)
    assert torch.equal(marks, torch.eye(math.prod(sizes), dtype=torch.float64))
    assert len(list(itertools.chain(groups_of(axes, 4)))) == -(-math.prod(sizes) // 4)
