"""Power iteration and Lanczos against dense singular values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from dense import Matrix
from drawing import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.ops import Conv
from llcert.spectral import Lanczos, Masked, Norm, PowerIteration, Side, random_start
from llcert.spectral.estimate.lanczos import Bidiagonalisation

Estimate = Lanczos | PowerIteration

TIGHT = PowerIteration(tolerance=1e-7, cap=20000)
SOLVERS: dict[str, Estimate] = {"power": TIGHT, "lanczos": Lanczos(tolerance=1e-7, vectors=True)}
both = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@dataclass(frozen=True)
class Convolution:
    """A convolution of `[2, 5, 5]`."""

    op: Conv

    @property
    def columns(self) -> tuple[int, ...]:
        return (2, 5, 5)

    def apply(self, x: Tensor) -> Tensor:
        return self.op.linear(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.op.adjoint(y, self.columns)


def _mask(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6).to(dtype)


def _dense(seed: int, batch: int = 4, rows: int = 9, columns: int = 7) -> Masked:
    masks = _mask(batch, rows, seed=seed + 1), _mask(batch, columns, seed=seed + 2)
    return Masked(Matrix(normal(rows, columns, seed=seed)), *masks)


def _convolution(seed: int, batch: int = 3, stride: int = 1) -> Masked:
    op = Conv(normal(3, 2, 3, 3, seed=seed), None, (stride, stride), (1, 1))
    shape = op.linear(torch.zeros(1, 2, 5, 5, dtype=torch.float64)).shape[1:]
    return Masked(Convolution(op), _mask(batch, *shape, seed=seed + 1), _mask(batch, 2, 5, 5, seed=seed + 2))


def _truth(masked: Masked) -> Tensor:
    size = masked.columns[0].numel()
    unit = torch.eye(size, dtype=masked.columns.dtype).reshape(size, *masked.map.columns)
    entries = masked.map.apply(unit).flatten(1).T.double()
    dense = masked.rows.flatten(1).double()[:, :, None] * entries * masked.columns.flatten(1).double()[:, None]
    return torch.linalg.matrix_norm(dense, 2)


def _solve(masked: Masked, solver: Estimate = TIGHT, seed: int = 0) -> Norm:
    return solver(masked, random_start(tuple(masked.columns.shape), masked.columns, seed))


@both
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["dense", "convolution", "strided"])
def test_agrees_with_dense_svd(kind: str, seed: int, solver: Estimate) -> None:
    masked = _dense(seed) if kind == "dense" else _convolution(seed, stride=1 if kind == "convolution" else 2)
    norm, truth = _solve(masked, solver), _truth(masked)
    assert norm.side is Side.ESTIMATE
    assert norm.converged.all()
    assert (norm.value <= truth * (1 + 1e-12)).all(), "an estimate came out above the norm"
    assert (norm.value >= truth * (1 - 1e-3)).all()


@both
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12), columns=st.integers(1, 12), cap=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_never_above_the_truth_however_early_it_stops(
    solver: Estimate, seed: int, rows: int, columns: int, cap: int
) -> None:
    masked = _dense(seed, rows=rows, columns=columns)
    norm = _solve(masked, replace(solver, cap=cap), seed)
    assert not (norm.value > _truth(masked) * (1 + 1e-12)).any()


@pytest.mark.parametrize(
    "solver", [*(PowerIteration(compact=n) for n in (1, 3, 5, 1000)), *(Lanczos(least=n, vectors=True) for n in (1, 8))]
)
def test_a_batch_is_its_images_one_by_one(solver: Estimate) -> None:
    masked = _dense(3, batch=8)
    start = random_start((8, 7), masked.columns, 5)
    together = solver(masked, start)
    for i in range(8):
        alone = solver(masked.select(torch.tensor([i])), start[i : i + 1])
        assert torch.allclose(alone.value, together.value[i : i + 1], rtol=1e-12, atol=0)
        assert torch.allclose(alone.vector, together.vector[i : i + 1], atol=1e-9)
        assert alone.iterations == together.iterations[i]
        assert alone.converged == together.converged[i]


@both
def test_vectors_are_unit_right_singular_vectors(solver: Estimate) -> None:
    masked = _dense(11)
    norm = _solve(masked, solver)
    assert torch.allclose(torch.linalg.vector_norm(norm.vector, dim=1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(torch.linalg.vector_norm(masked.apply(norm.vector), dim=1), norm.value, rtol=1e-6)
    assert (norm.vector[masked.columns == 0] == 0).all()


@both
@pytest.mark.parametrize("which", ["rows", "columns", "both"])
def test_nothing_left_has_norm_zero(which: str, solver: Estimate) -> None:
    masked = _dense(1, batch=2)
    rows, columns = masked.rows.clone(), masked.columns.clone()
    if which != "columns":
        rows[0] = 0
    if which != "rows":
        columns[0] = 0
    norm = _solve(Masked(masked.map, rows, columns), solver)
    assert norm.value[0] == 0
    assert norm.converged.all()
    assert norm.value[1] > 0, "an empty neighbour must not stop the others"


@both
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_poisoned_maps_do_not_converge(poison: float, solver: Estimate) -> None:
    entries = normal(5, 4, seed=0)
    entries[2, 1] = poison
    ones = torch.ones(2, 5, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    norm = _solve(Masked(Matrix(entries), *ones), solver)
    assert not norm.converged.any()
    assert (norm.iterations < 10).all(), "nothing is gained by going on"


@both
def test_a_poisoned_mask_spares_its_neighbours(solver: Estimate) -> None:
    masked = _dense(4, batch=2)
    rows = masked.rows.clone()
    rows[0, 0] = torch.nan
    norm, truth = _solve(Masked(masked.map, rows, masked.columns), solver), _truth(masked)
    assert norm.converged.tolist() == [False, True]
    assert torch.allclose(norm.value[1], truth[1])


@both
@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e36])
def test_scales_keep_relative_accuracy_in_float32(scale: float, solver: Estimate) -> None:
    entries = normal(6, 6, seed=2, dtype=torch.float32)
    ones = torch.ones(1, 6)
    norm = _solve(Masked(Matrix(entries * scale), ones, ones), replace(solver, tolerance=1e-5))
    truth = torch.linalg.matrix_norm(entries.double(), 2) * scale
    assert norm.converged.all()
    assert abs(float(norm.value) / float(truth) - 1) <= 1e-4


@both
@pytest.mark.parametrize("cap", [0, 1, 3])
def test_cap_reached_is_not_converged(cap: int, solver: Estimate) -> None:
    norm = _solve(_dense(6, rows=30, columns=30), replace(solver, tolerance=1e-12, cap=cap))
    assert not norm.converged.any()
    assert (norm.iterations <= cap).all()


@both
@pytest.mark.parametrize("start", [0.0, torch.nan, torch.inf])
def test_useless_starts_are_replaced(start: float, solver: Estimate) -> None:
    masked = _dense(8)
    norm = solver(masked, torch.full_like(masked.columns, start))
    assert norm.converged.all()
    assert torch.allclose(norm.value, _truth(masked), rtol=1e-3)


@both
def test_a_start_that_the_masks_wipe_out_is_replaced(solver: Estimate) -> None:
    masked = _dense(8)
    norm = solver(masked, 1 - masked.columns)
    assert norm.converged.all()
    assert torch.allclose(norm.value, _truth(masked), rtol=1e-3)


@both
def test_a_start_in_the_null_space_does_not_converge(solver: Estimate) -> None:
    entries, ones = torch.diag(torch.tensor([1.0, 0.0])), torch.ones(1, 2)
    norm = solver(Masked(Matrix(entries), ones, ones), torch.tensor([[0.0, 1.0]]))
    assert not norm.converged.any()


@both
def test_seeds_reproduce(solver: Estimate) -> None:
    like = torch.zeros((), dtype=torch.float64)
    assert torch.equal(random_start((3, 4), like, 7), random_start((3, 4), like, 7))
    assert not torch.equal(random_start((3, 4), like, 7), random_start((3, 4), like, 8))
    first, second = (_solve(_dense(2), solver, seed=3) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.vector, second.vector)


def test_a_saved_start_needs_fewer_iterations() -> None:
    masked, solver = _convolution(9), PowerIteration(least=1)
    cold = _solve(masked, solver)
    warm = solver(masked, cold.vector)
    assert (warm.iterations <= 2).all()
    assert warm.iterations.sum() < cold.iterations.sum()
    assert (warm.value >= cold.value * (1 - 1e-12)).all()


def test_lanczos_needs_a_quarter_of_the_products() -> None:
    """Until the norm is known to 1e-3, on masked convolutions, as the power iteration does from the same start."""
    for seed in range(10):
        masked = _convolution(seed, batch=4)
        start, truth = random_start(tuple(masked.columns.shape), masked.columns, seed), _truth(masked)
        needed = []
        for solver in (PowerIteration(tolerance=1e-12, least=1), Lanczos(tolerance=1e-12, least=1)):
            caps = (n for n in range(1, 400) if (replace(solver, cap=n)(masked, start).value >= truth * 0.999).all())
            needed.append(next(caps))
        assert needed[1] <= max(needed[0] / 2, 6)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_lanczos_stops_where_the_krylov_space_ends(rank: int) -> None:
    entries = (normal(12, rank, seed=1) @ normal(rank, 9, seed=2)).float()
    ones = torch.ones(1, 12), torch.ones(1, 9)
    norm = _solve(Masked(Matrix(entries), *ones), Lanczos(tolerance=1e-6))
    assert norm.converged.all()
    truth = torch.linalg.matrix_norm(entries.double(), 2)
    assert float(norm.value) == pytest.approx(float(truth), rel=1e-6)


def test_lanczos_finds_vectors_only_where_they_are_asked_for() -> None:
    assert _solve(_dense(2), Lanczos()).vector is None
    norm = _solve(_convolution(3), Lanczos(vectors=True))
    assert norm.vector is not None
    assert (norm.vector[_convolution(3).columns == 0] == 0).all()


@both
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e38), (torch.float64, 1e308)])
def test_overflow_is_not_converged(dtype: torch.dtype, size: float, solver: Estimate) -> None:
    """Every entry is finite, the norm is not; what a product loses to overflow is no small rest."""
    ones = torch.ones(1, 1, dtype=dtype), torch.ones(1, 30, dtype=dtype)
    norm = _solve(Masked(Matrix(torch.full((1, 30), size, dtype=dtype)), *ones), solver)
    assert not norm.converged.any()


class Same:
    """The identity, which hands back the very tensor it is given."""

    columns = (6,)

    def apply(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y


@both
def test_products_may_share_memory_with_what_they_are_of(solver: Estimate) -> None:
    masked = Masked(Same(), _mask(4, 6, seed=1), 2 * _mask(4, 6, seed=2))
    start = normal(4, 6, seed=3)
    before = start.clone(), masked.rows.clone(), masked.columns.clone()
    norm = solver(masked, start)
    assert norm.converged.all()
    assert torch.allclose(norm.value, (masked.rows * masked.columns).amax(1))
    assert all(torch.equal(a, b) for a, b in zip(before, (start, masked.rows, masked.columns), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_lanczos_waits_for_no_number(dtype: torch.dtype) -> None:
    """Tensors without values stand for a device on which to read one is to wait: reading one of theirs raises."""
    zeros = partial(torch.zeros, device="meta", dtype=dtype)
    masked = Masked(Convolution(Conv(zeros(3, 2, 3, 3), None, (1, 1), (1, 1))), zeros(4, 3, 5, 5), zeros(4, 2, 5, 5))
    peak = torch.zeros(4, device="meta", dtype=torch.float64)
    state = Bidiagonalisation(masked, zeros(4, 2, 5, 5), None, [], [], peak, (False, True))
    for _ in range(3):
        state.step()
    assert state.count == 3
