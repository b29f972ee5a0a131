"""Only what is masked reaches the solver, and each image gets its own answer back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from dense import Matrix
from drawing import normal
from torch import Tensor

from llcert.spectral import Masked, MaskedOnly, Norm, Side


@dataclass
class Exact:
    """Norms by a singular value decomposition; counts what it is asked."""

    asked: list[int] = field(default_factory=list)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        assert isinstance(masked.map, Matrix)
        assert len(start) == masked.batch
        self.asked.append(masked.batch)
        dense = masked.rows[:, :, None] * masked.map.entries * masked.columns[:, None]
        value = torch.linalg.matrix_norm(dense, 2)
        return Norm(value, Side.UPPER, start, torch.ones(len(value), dtype=torch.int64), torch.isfinite(value))


def drawn() -> Masked:
    """Five images: two without a mask, one with a zero row, one with a zero column, one with a factor of 1/2."""
    rows, columns = torch.ones(5, 4, dtype=torch.float64), torch.ones(5, 6, dtype=torch.float64)
    rows[1, 2], columns[3, 0], rows[4, 1] = 0, 0, 0.5
    return Masked(Matrix(normal(4, 6)), rows, columns)


def test_masked_maps_have_the_norm_of_the_solver_and_whole_ones_none() -> None:
    masked, solver = drawn(), Exact()
    exact = Exact()(masked, masked.columns).value
    found = MaskedOnly(solver, {masked.map})(masked, masked.columns)
    assert solver.asked == [3]
    assert found.converged.tolist() == [False, True, False, True, True]
    assert torch.equal(found.value[found.converged], exact[found.converged])
    assert found.value[~found.converged].isinf().all()
    assert found.side is Side.UPPER


def test_maps_that_nobody_knows_are_all_asked_for() -> None:
    masked, solver = drawn(), Exact()
    found = MaskedOnly(solver, set())(masked, masked.columns)
    assert solver.asked == [5]
    assert torch.equal(found.value, Exact()(masked, masked.columns).value)
