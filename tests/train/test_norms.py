"""Norms with gradients: values and gradients against dense singular values, and every way a map can vanish."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from dense import Matrix
from drawing import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.ops import Conv
from llcert.spectral import Masked, Side, random_start
from llcert_train.norms import FewIterations, OneProduct, improved

MANY = FewIterations(3000)
UNIT = 1e-6
"""How far the length of a unit vector in single precision may be from one."""


@dataclass(frozen=True)
class Convolution:
    """A strided convolution of `[2, 5, 5]`; entries: its kernel."""

    entries: Tensor

    @property
    def columns(self) -> tuple[int, ...]:
        return (2, 5, 5)

    def apply(self, x: Tensor) -> Tensor:
        return Conv(self.entries, None, (2, 2), (1, 1)).linear(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return Conv(self.entries, None, (2, 2), (1, 1)).adjoint(y, self.columns)


def mask(*shape: int, seed: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.7).to(torch.float64)


def dense(seed: int, *, batch: int = 3, rows: int = 6, columns: int = 5) -> Masked:
    return Masked(
        Matrix(normal(rows, columns, seed=seed)), mask(batch, rows, seed=seed + 1), mask(batch, columns, seed=seed + 2)
    )


def convolution(seed: int, *, batch: int = 3) -> Masked:
    kernel = normal(3, 2, 3, 3, seed=seed)
    return Masked(Convolution(kernel), mask(batch, 3, 3, 3, seed=seed + 1), mask(batch, 2, 5, 5, seed=seed + 2))


KINDS = {"dense": dense, "convolution": convolution}


def written_out(masked: Masked) -> Tensor:
    """Each image's map as a matrix, `[batch, rows, columns]`, in double precision."""
    size = masked.columns[0].numel()
    unit = torch.eye(size, dtype=masked.columns.dtype).reshape(size, *masked.map.columns)
    entries = masked.map.apply(unit).flatten(1).T.double()
    return masked.rows.flatten(1).double()[:, :, None] * entries * masked.columns.flatten(1).double()[:, None]


def truth(masked: Masked) -> Tensor:
    return torch.linalg.matrix_norm(written_out(masked), 2)


def start(masked: Masked, seed: int = 0) -> Tensor:
    return random_start(tuple(masked.columns.shape), masked.columns, seed)


def trained(masked: Masked) -> tuple[Masked, Tensor]:
    """The same map with entries that want a gradient."""
    entries = masked.map.entries.detach().clone().requires_grad_()
    return replace(masked, map=replace(masked.map, entries=entries)), entries


def in_single(masked: Masked) -> Masked:
    entries = masked.map.entries.float()
    return Masked(replace(masked.map, entries=entries), masked.rows.float(), masked.columns.float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_many_iterations_are_exact(kind: str, seed: int) -> None:
    masked = KINDS[kind](seed)
    norm = MANY(masked, start(masked))
    torch.testing.assert_close(norm.value, truth(masked), rtol=1e-5, atol=0)
    assert norm.side is Side.ESTIMATE
    assert norm.converged.all()
    assert norm.iterations.tolist() == [3000] * 3
    assert norm.vector.shape == masked.columns.shape
    assert not norm.vector.requires_grad


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    iterations=st.integers(0, 8),
    mixed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_never_above_the_norm(seed: int, rows: int, columns: int, iterations: int, mixed: bool) -> None:
    masked = in_single(dense(seed, rows=rows, columns=columns))
    norm = FewIterations(iterations, mixed)(masked, start(masked, seed))
    assert (norm.value <= truth(masked) * (1 + UNIT)).all()
    assert norm.value.dtype == torch.float32


@pytest.mark.parametrize("seed", range(6))
def test_every_iteration_helps(seed: int) -> None:
    masked = convolution(seed)
    begin = start(masked)
    values = torch.stack([FewIterations(n)(masked, begin).value for n in range(12)])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert (values[-1] > values[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_value_and_vector_belong_together(kind: str, iterations: int) -> None:
    masked = KINDS[kind](3)
    norm = FewIterations(iterations)(masked, start(masked))
    torch.testing.assert_close(norm.vector.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    moved = written_out(masked) @ norm.vector.flatten(1)[..., None]
    torch.testing.assert_close(norm.value, moved[..., 0].norm(dim=1))


def test_without_iterations_the_start_is_the_direction() -> None:
    masked = dense(4)
    begin = start(masked)
    kept = begin * masked.columns
    expected = (written_out(masked) @ kept[..., None])[..., 0].norm(dim=1) / kept.norm(dim=1)
    torch.testing.assert_close(FewIterations(0)(masked, begin).value, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_gradient_is_that_of_the_norm(kind: str, seed: int) -> None:
    """Against central differences of the true norms, entry by entry, with a weight for each image."""
    masked, entries = trained(KINDS[kind](seed))
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    (MANY(masked, start(masked)).value * weights).sum().backward()
    found, step = torch.zeros_like(entries), 1e-5
    for i in range(entries.numel()):
        sides = []
        for sign in (1, -1):
            moved = entries.detach().clone()
            moved.view(-1)[i] += sign * step
            sides.append((truth(replace(masked, map=replace(masked.map, entries=moved))) * weights).sum())
        found.view(-1)[i] = (sides[0] - sides[1]) / (2 * step)
    torch.testing.assert_close(entries.grad, found, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("iterations", [0, 2])
def test_gradient_is_an_outer_product_before_convergence_too(iterations: int, mixed: bool) -> None:
    """`v u*` with `v = A u / ||A u||`, for each image by its masks; nothing flows through how u was found."""
    masked, entries = trained(dense(7))
    norm = FewIterations(iterations, mixed)(masked, start(masked))
    norm.value.sum().backward()
    u = norm.vector * masked.columns
    image = (u @ entries.detach().T) * masked.rows
    v = image / image.norm(dim=1, keepdim=True)
    torch.testing.assert_close(entries.grad, (v * masked.rows).T @ u)


def test_images_do_not_mix() -> None:
    masked = convolution(5, batch=4)
    begin = start(masked)
    together = FewIterations(3)(masked, begin)
    for n in range(4):
        one = masked.select(torch.tensor([n]))
        alone = FewIterations(3)(one, begin[n : n + 1])
        torch.testing.assert_close(together.value[n : n + 1], alone.value)
        torch.testing.assert_close(together.vector[n : n + 1], alone.vector)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_length_of_the_start_does_not_matter(scale: float) -> None:
    masked = in_single(dense(6))
    begin = start(masked)
    ours, same = FewIterations(3)(masked, begin * scale), FewIterations(3)(masked, begin)
    torch.testing.assert_close(ours.value, same.value)
    assert (ours.value > 0).all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_size_of_the_map_does_not_matter(scale: float) -> None:
    masked = in_single(dense(6))
    scaled = replace(masked, map=Matrix(masked.map.entries * scale))
    found = FewIterations(4)(scaled, start(masked)).value
    torch.testing.assert_close(found / scale, FewIterations(4)(masked, start(masked)).value)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iterations", [0, 1, 40])
class TestDegenerate:
    def solved(self, masked: Masked, begin: Tensor, iterations: int, mixed: bool) -> tuple[Tensor, Tensor]:
        """Values and gradient, after both and the vector were found finite, and no value above the norm."""
        masked, entries = trained(in_single(masked))
        norm = FewIterations(iterations, mixed)(masked, begin.float())
        norm.value.sum().backward()
        assert (norm.value.detach() <= truth(masked).detach() * (1 + UNIT)).all()
        assert norm.value.isfinite().all()
        assert norm.vector.isfinite().all()
        assert norm.converged.all()
        assert entries.grad.isfinite().all()
        return norm.value.detach(), entries.grad

    def test_a_start_that_the_mask_wipes_out(self, kind: str, iterations: int, mixed: bool) -> None:
        masked = KINDS[kind](1)
        values, gradient = self.solved(masked, start(masked) * (1 - masked.columns), iterations, mixed)
        assert (values > 0).all()
        assert gradient.any()
        if iterations == 40 and not mixed:
            assert (values > 0.9 * truth(masked)).all()

    def test_a_start_of_zeros(self, kind: str, iterations: int, mixed: bool) -> None:
        masked = KINDS[kind](1)
        assert (self.solved(masked, torch.zeros_like(masked.columns), iterations, mixed)[0] > 0).all()

    def test_zero_maps(self, kind: str, iterations: int, mixed: bool) -> None:
        masked = KINDS[kind](1)
        nothing = replace(masked, map=replace(masked.map, entries=torch.zeros_like(masked.map.entries)))
        values, gradient = self.solved(nothing, start(masked), iterations, mixed)
        assert not values.any()
        assert not gradient.any()

    @pytest.mark.parametrize("empty", ["rows", "columns", "both"])
    def test_empty_masks(self, kind: str, iterations: int, mixed: bool, empty: str) -> None:
        """Only the second of three images has one; the others have their norms."""
        masked = KINDS[kind](1)
        rows, columns = masked.rows.clone(), masked.columns.clone()
        if empty != "columns":
            rows[1] = 0
        if empty != "rows":
            columns[1] = 0
        values, _ = self.solved(Masked(masked.map, rows, columns), start(masked), iterations, mixed)
        assert (values > 0).tolist() == [True, False, True]

    def test_a_start_in_the_null_space(self, kind: str, iterations: int, mixed: bool) -> None:
        masked = KINDS[kind](1)
        one = torch.zeros_like(masked.columns)
        one[:, 0] = 1.0
        entries = masked.map.entries.clone()
        entries[:, 0] = 0.0
        blind = Masked(replace(masked.map, entries=entries), masked.rows, torch.ones_like(one))
        assert not self.solved(blind, one, iterations, mixed)[0].any()


@pytest.mark.parametrize("seed", range(6))
def test_mixed_directions_have_values_in_full_precision(seed: int) -> None:
    masked = in_single(convolution(seed))
    norm = FewIterations(30, mixed=True)(masked, start(masked))
    assert norm.value.dtype == norm.vector.dtype == torch.float32
    u = norm.vector.double().flatten(1)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(3).double(), atol=UNIT, rtol=0)
    moved = (written_out(masked) @ u[..., None])[..., 0].norm(dim=1)
    torch.testing.assert_close(norm.value.double(), moved, atol=0, rtol=1e-6)
    assert (norm.value <= truth(masked) * (1 + UNIT)).all()
    assert (norm.value >= truth(masked) * 0.97).all()


def test_only_directions_are_mixed() -> None:
    seen: list[torch.dtype] = []

    @dataclass(frozen=True)
    class Watched(Matrix):
        def apply(self, x: Tensor) -> Tensor:
            y = super().apply(x)
            seen.append(y.dtype)
            return y

    masked = in_single(dense(2))
    watched = replace(masked, map=Watched(masked.map.entries))
    FewIterations(3, mixed=True)(watched, start(masked))
    assert seen == [torch.bfloat16] * 3 + [torch.float32]
    assert not torch.is_autocast_enabled("cpu")
    seen.clear()
    FewIterations(3)(watched, start(masked))
    assert seen == [torch.float32] * 4


def test_the_start_is_left_alone_and_gets_no_gradient() -> None:
    masked, _ = trained(dense(8))
    begin = start(masked).requires_grad_()
    before = begin.detach().clone()
    FewIterations(2)(masked, begin).value.sum().backward()
    assert torch.equal(begin.detach(), before)
    assert begin.grad is None


class TestOneProduct:
    """An iteration that the step's own backward pass carries out."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_the_power_iteration(self, kind: str) -> None:
        """The same values and gradients as with an iteration of its own, one step later."""
        masked = KINDS[kind](3)
        ahead = behind = start(masked, 5)
        values = []
        for _ in range(6):
            norm = OneProduct()(masked, behind)
            assert norm.vector is not None
            (norm.value * torch.tensor([2.0, 1e-3, 5.0], dtype=torch.float64)).sum().backward()
            (behind,) = improved({0: norm.vector}).values()
            values.append(norm.value.detach())
            few = FewIterations(1)(masked, ahead)
            assert few.vector is not None
            ahead = few.vector
            torch.testing.assert_close(OneProduct()(masked, behind).value, few.value)
        assert all((a <= b * (1 + 1e-12)).all() for a, b in itertools.pairwise(values))

    def test_vectors_that_no_gradient_reaches_stay(self) -> None:
        masked = dense(1)
        norm = OneProduct()(masked, start(masked, 2))
        assert norm.vector is not None
        assert torch.equal(improved({0: norm.vector})[0], norm.vector.detach())
        (0 * norm.value).sum().backward()
        assert torch.equal(improved({0: norm.vector})[0], norm.vector.detach())

    def test_without_gradients_nothing_is_gathered(self) -> None:
        masked = dense(1)
        with torch.no_grad():
            norm = OneProduct()(masked, start(masked, 2))
        assert norm.vector is not None
        assert not norm.vector.requires_grad
