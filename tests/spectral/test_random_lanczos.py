"""Probable norms: how often they fail, how far they are off, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dense import whole
from drawing import normal
from random_layers import norm_from_below, random_layer, term_of
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.ops import Conv
from llcert.spectral import Masked, RandomLanczos, Side


def _hardest(steps: int, error: float, size: int) -> Tensor:
    """A diagonal map whose small eigenvalues lie where a Krylov space is hardest put to see the top."""
    nodes = torch.cos(torch.arange(steps, dtype=torch.float64) * math.pi / (2 * steps - 1))
    squares = (1 - error) * (1 - nodes.square())
    return torch.diag(torch.cat([torch.ones(1).double(), squares.repeat(-(-size // steps))[: size - 1]]).sqrt())


@pytest.mark.parametrize("kind", ["random", "hardest", "clustered"])
@pytest.mark.parametrize("delta", [0.3, 0.05])
def test_fails_no_more_often_than_it_says(delta: float, kind: str) -> None:
    images, size = 2000, 40
    solver = RandomLanczos(delta=delta, inflation=0.3, seed=1)
    entries = {
        "random": normal(size, size),
        "hardest": _hardest(solver.steps(size), 1 - 1.3**-2, size),
        "clustered": torch.diag(torch.cat([torch.ones(1), torch.full((size - 1,), 0.5)])).double(),
    }[kind]
    truth = float(torch.linalg.matrix_norm(entries, 2))
    failures = int((solver(whole(entries, images), torch.zeros(images, size)).value < truth * (1 - 1e-12)).sum())
    assert failures <= delta * images + 4 * math.sqrt(delta * images)


def test_fails_sometimes_where_it_may() -> None:
    """Otherwise the test of its failures would test nothing."""
    solver = RandomLanczos(delta=0.3, inflation=0.3, seed=1)
    masked = whole(_hardest(solver.steps(40), 1 - 1.3**-2, 40), 500)
    assert (solver(masked, masked.columns).value < 1).sum() >= 25


def test_random_layers(request: pytest.FixtureRequest) -> None:
    solver = RandomLanczos()
    for seed in range(request.config.getoption("--layers")):
        layer = random_layer(seed)
        norm = solver(layer.masked, layer.masked.columns)
        assert norm.side is Side.PROBABLE
        assert norm.converged.all()
        for image, value in enumerate(norm.value.tolist()):
            truth = norm_from_below(layer, image)
            assert truth <= np.longdouble(value) <= truth * 1.0051 + 1e-300, (seed, layer.kind)


def test_steps() -> None:
    by_method = [RandomLanczos(inflation=0.01).steps(n) for n in (512, 4096, 32768)]
    assert by_method == sorted(by_method)
    assert all(85 <= k <= 97 for k in by_method)
    assert RandomLanczos().steps(3) == 3
    for size, delta in ((100, 0.1), (5000, 1e-12)):
        solver = RandomLanczos(delta=delta, inflation=0.1)
        angle = (2 * solver.steps(size) - 1) * math.atanh(math.sqrt(1 - 1.1**-2))
        assert math.sqrt(2 * size / math.pi) / math.sinh(angle) <= delta


def test_every_start_is_drawn_once() -> None:
    solver, masked = RandomLanczos(), random_layer(0, images=3).masked
    vectors = torch.cat([solver(masked, masked.columns).vector for _ in range(3)])
    assert len(torch.unique(vectors, dim=0)) == 9
    again = RandomLanczos()(masked, masked.columns)
    assert torch.equal(again.vector, vectors[:3])


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300])
def test_scales(scale: float) -> None:
    entries = normal(9, 7)
    norm = RandomLanczos()(whole(entries * scale), torch.zeros(1, 7))
    truth = float(torch.linalg.matrix_norm(entries, 2)) * scale
    assert truth * (1 - 1e-12) <= float(norm.value) <= truth * 1.0051 + 1e-290


@pytest.mark.parametrize(
    "entries",
    [
        torch.zeros(3, 4, dtype=torch.float64),
        torch.ones(50, 80, dtype=torch.float64),
        torch.eye(60, dtype=torch.float64),
        torch.outer(normal(70), normal(90, seed=1)),
        torch.linalg.qr(normal(80, 80))[0],
        torch.vander(torch.linspace(0, 1, 40, dtype=torch.float64)),
        normal(2, 300),
        normal(300, 2),
        normal(1, 1),
    ],
    ids=["zero", "ones", "identity", "rank one", "orthogonal", "singular", "wide", "tall", "scalar"],
)
def test_breakdown(entries: Tensor) -> None:
    """Invariant subspaces end the recursion early; what is left are fresh directions, never NaN."""
    norm = RandomLanczos()(whole(entries, 3), torch.zeros(3, entries.shape[1]))
    truth = float(torch.linalg.matrix_norm(entries, 2))
    assert norm.converged.all()
    assert (norm.value >= truth * (1 - 1e-14)).all()
    assert (norm.value <= truth * 1.0051 + 1e-300).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["rows", "columns"])
def test_a_poisoned_factor_spares_its_neighbours(poison: float, which: str) -> None:
    for seed in range(10):
        masked = random_layer(seed, images=3).masked
        factors = {"rows": masked.rows.clone(), "columns": masked.columns.clone()}
        factors[which][1].view(-1)[0] = poison
        norm = RandomLanczos()(Masked(masked.map, **factors), masked.columns)
        assert norm.converged.tolist() == [True, False, True]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poisoned_weights_do_not_converge(poison: float) -> None:
    entries = normal(5, 4)
    entries[2, 1] = poison
    assert not RandomLanczos()(whole(entries, 2), torch.zeros(2, 4)).converged.any()


@pytest.mark.parametrize("which", ["rows", "columns"])
def test_nothing_left_has_norm_zero(which: str) -> None:
    masked = random_layer(0, images=3).masked
    factors = {"rows": masked.rows.clone(), "columns": masked.columns.clone()}
    factors[which][1] = 0
    norm = RandomLanczos()(Masked(masked.map, **factors), masked.columns)
    assert norm.converged.all()
    assert float(norm.value[1]) <= 1e-300


def test_little_memory_changes_only_the_pace() -> None:
    term = term_of((2, 9, 9), Conv(normal(3, 2, 3, 3), None, (1, 1), (1, 1)))
    masked = Masked(term, torch.ones(5, 3, 9, 9, dtype=torch.float64), torch.ones(5, 2, 9, 9, dtype=torch.float64))
    few, all_ = (RandomLanczos(memory=m)(masked, masked.columns).value for m in (1.0, 1e9))
    assert torch.allclose(few, all_, rtol=1e-12)


def test_settings_are_checked() -> None:
    for settings in ({"delta": 0.0}, {"delta": math.nan}, {"inflation": 0.0}):
        with pytest.raises(InvalidInput):
            RandomLanczos(**settings)
