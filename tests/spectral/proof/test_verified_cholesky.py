"""Proved norms against extended precision: never below the truth, hardly above it, silent where nothing is known."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from dense import exact_norm, whole
from drawing import normal
from random_graphs import random_network
from random_layers import Draw, Layer, chain, largest, norm_from_below, random_layer, term_of
from torch import Tensor

from llcert.bounds.global_lipschitz.norms import global_norm, operator_bound
from llcert.errors import InvalidInput
from llcert.ops import Conv, Linear
from llcert.program import Term, lower
from llcert.spectral import Masked, Norm, RandomLanczos, Side, VerifiedCholesky
from llcert.spectral.proof import banded, dense, sparse


def _prove(masked: Masked, **settings: float) -> Norm:
    norm = VerifiedCholesky(**settings)(masked, masked.columns)  # type: ignore[arg-type]
    assert norm.side is Side.UPPER
    assert torch.equal(norm.converged, torch.isfinite(norm.value))
    return norm


def _layer(entries: Tensor) -> Layer:
    return Layer("dense", whole(entries), entries.numpy().astype(np.longdouble))


def _truths(layer: Layer) -> Tensor:
    return torch.tensor([float(norm_from_below(layer, i)) for i in range(layer.masked.batch)], dtype=torch.float64)


@pytest.fixture(params=["as it comes", "banded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Proofs as the sizes ask for them, or banded ones wherever a map is written out sparsely."""
    if request.param == "banded":
        monkeypatch.setattr(sparse, "DENSE", 3)
        monkeypatch.setattr(sparse, "SHARE", 1.0)
    return str(request.param)


def test_random_layers(way: str, request: pytest.FixtureRequest) -> None:
    excess: dict[str, list[float]] = {}
    for seed in range(request.config.getoption("--layers")):
        layer = random_layer(seed)
        norm = _prove(layer.masked)
        assert norm.converged.all(), (seed, layer.kind)
        for image, value in enumerate(norm.value.tolist()):
            truth = norm_from_below(layer, image)
            assert value >= truth, (seed, layer.kind, image)
            excess.setdefault(layer.kind, []).append(float(value / truth) - 1 if truth else value)
    assert statistics.median(excess.pop("dense")) <= 1e-3
    for kind, values in excess.items():
        assert statistics.median(values) <= 1e-2, kind


def test_rounding_is_paid_for(way: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without an excess to hide in, a proof that forgets a rounding error falls below the truth."""
    tight = (-1e-15, -1e-16, 0.0, 1e-16, 3e-16, 1e-15, 3e-15, 1e-14, 1e-13, 1e-12, 1e-10, 1e-8)
    monkeypatch.setattr(dense, "EXCESSES", tight)
    monkeypatch.setattr(banded, "EXCESSES", tight)
    excess = []
    for seed in range(request.config.getoption("--layers")):
        layer = random_layer(seed)
        for image, value in enumerate(_prove(layer.masked).value.tolist()):
            truth = norm_from_below(layer, image)
            assert np.longdouble(value) >= truth, (seed, layer.kind, image)
            excess.append(float(value / truth) - 1 if truth else value)
    assert statistics.median(excess) <= 1e-11, "the bound on rounding is far from what rounding does"


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rounding_that_never_cancels_is_paid_for(rows: int) -> None:
    """Equal entries are rounded the same way every time they are added; their norm is known."""
    for seed in range(10):
        entry, length = float(normal(1, seed=seed)), 1000 + 371 * seed
        value = float(_prove(whole(torch.full((rows, length), entry, dtype=torch.float64))).value)
        truth = np.longdouble(abs(entry)) * np.sqrt(np.longdouble(rows * length))
        assert truth <= np.longdouble(value) <= truth * (1 + 1e-8)


def test_a_proof_below_the_norm_fails(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "EXCESSES", (-1e-6,))
    monkeypatch.setattr(banded, "EXCESSES", (-1e-6,))
    for seed in range(20):
        layer = random_layer(seed)
        proved = _prove(layer.masked).value
        truth = _truths(layer)
        assert (torch.isinf(proved) | (truth == 0)).all(), (seed, layer.kind)


def test_terms_of_random_graphs(way: str, request: pytest.FixtureRequest) -> None:
    """Every operator, in whatever chains and joins the graphs have."""
    solver = VerifiedCholesky()
    for seed in range(request.config.getoption("--graphs")):
        for term in (t for b in lower(random_network(seed), dtype=torch.float64).blocks for t in b.terms):
            draw = Draw(seed)
            masked = Masked(term, draw.factors(2, *term.output.shape), draw.factors(2, *term.columns))
            norm = solver(masked, masked.columns)
            truth = torch.tensor([exact_norm(masked, i) for i in range(2)], dtype=torch.float64)
            assert norm.converged.all(), seed
            assert (norm.value >= truth * (1 - 1e-14)).all(), seed
            assert (norm.value <= truth * (1 + 1e-6) + 1e-290).all(), seed
            assert global_norm(term, solver) >= exact_norm(_unmasked(term)) * (1 - 1e-14)


def _unmasked(term: Term) -> Masked:
    return Masked(term, *(torch.ones(1, *s, dtype=torch.float64) for s in (term.output.shape, term.columns)))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1e30, 1e150, 1e200])
@pytest.mark.parametrize("kind", range(10))
def test_scales(kind: int, scale: float) -> None:
    layer = random_layer(kind)
    for factors in ((scale, 1.0), (1.0, scale)):
        masked = Masked(layer.masked.map, layer.masked.rows * factors[0], layer.masked.columns * factors[1])
        norm = _prove(masked)
        truth = _truths(Layer(layer.kind, masked, layer.matrix))
        assert (norm.value >= truth).all()
        assert norm.converged.all()
        assert (norm.value <= truth * (1 + 1e-6) + 1e-300).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300])
def test_scaled_weights(scale: float) -> None:
    entries = normal(9, 7) * scale
    norm = _prove(whole(entries))
    truth = float(largest(entries.numpy().astype(np.longdouble)))
    assert truth <= float(norm.value)
    assert not norm.converged or float(norm.value) <= truth * 1.01 + 2.0**-990


def test_what_overflows_is_refused() -> None:
    masked = whole(normal(9, 7) * 1e300)
    assert not _prove(Masked(masked.map, masked.rows * 1e100, masked.columns)).converged.any()
    opposite = Masked(masked.map, masked.rows * 1e-200, masked.columns * 1e200)
    assert _prove(opposite).value >= float(largest(masked.map.entries.numpy().astype(np.longdouble)))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "entries",
    [
        torch.zeros(3, 4, dtype=torch.float64),
        torch.ones(5, 8, dtype=torch.float64),
        torch.eye(6, dtype=torch.float64),
        torch.outer(normal(7), normal(9, seed=1)),
        torch.linalg.qr(normal(8, 8))[0],
        torch.diag(torch.tensor([1.0, 1.0 - 1e-16, 1.0 + 3e-16, 1e-18, 0.0], dtype=torch.float64)),
        torch.vander(torch.linspace(0, 1, 12, dtype=torch.float64)),
        torch.tensor([[1.0, 1e-160], [1e-160, 1e-320]], dtype=torch.float64),
        normal(1, 1),
        normal(300, 280, seed=4),
    ],
    ids=["zero", "ones", "identity", "rank one", "orthogonal", "close", "singular", "subnormal", "scalar", "large"],
)
def test_special_matrices(entries: Tensor) -> None:
    norm = _prove(whole(entries, 2))
    truth = largest(entries.numpy().astype(np.longdouble))
    assert norm.converged.all()
    assert (norm.value >= float(truth)).all()
    assert (norm.value <= float(truth) * (1 + 1e-7) + 1e-200).all()


@pytest.mark.parametrize("values", ["flat", "steep", "equal", "one", "zero"])
def test_large_spectra_without_a_gap_are_met(values: str) -> None:
    """Trained layers have many singular values near the largest: an estimate that stops early costs half a percent."""
    n = 400
    rest = {
        "flat": 1 - 1e-4 * torch.linspace(0, 1, n, dtype=torch.float64),
        "steep": torch.logspace(0, -300, n, dtype=torch.float64),
        "equal": torch.ones(n, dtype=torch.float64),
        "one": torch.eye(1, n, dtype=torch.float64)[0],
        "zero": torch.zeros(n, dtype=torch.float64),
    }[values]
    left, right = (torch.linalg.qr(normal(n, n, seed=s))[0] for s in (0, 1))
    value = float(_prove(whole(left * rest @ right.mT)).value)
    assert float(rest[0]) * (1 - 1e-13) <= value <= float(rest[0]) * (1 + 1e-7) + 1e-290


@pytest.mark.parametrize("which", ["rows", "columns"])
def test_nothing_left_has_norm_zero(which: str) -> None:
    for seed in range(10):
        masked = random_layer(seed, images=3).masked
        factors = {"rows": masked.rows.clone(), "columns": masked.columns.clone()}
        factors[which][1] = 0
        norm = _prove(Masked(masked.map, **factors))
        assert norm.value[1] == 0
        assert norm.converged.all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_poisoned_weights_prove_nothing(poison: float) -> None:
    for shape, op in (((4,), Linear(normal(4, 4))), ((1, 6, 6), Conv(normal(3, 1, 3, 3), None, (1, 1), (1, 1)))):
        op.weight.view(-1)[5] = poison
        term, _ = chain(shape, op)
        masks = [torch.ones(2, *n, dtype=torch.float64) for n in (term.output.shape, term.columns)]
        assert not _prove(Masked(term, *masks)).converged.any()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", ["rows", "columns"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_poisoned_factor_spares_its_neighbours(poison: float, which: str, empty: bool, way: str) -> None:
    for seed in range(10):
        layer = random_layer(seed, images=3)
        factors = {"rows": layer.masked.rows.clone(), "columns": layer.masked.columns.clone()}
        if empty:
            factors["rows" if which == "columns" else "columns"][1] = 0
        factors[which][1].view(-1)[0] = poison
        norm = _prove(Masked(layer.masked.map, **factors))
        assert norm.converged.tolist() == [True, False, True], (seed, layer.kind)
        assert norm.value[2] >= norm_from_below(layer, 2)


@pytest.mark.parametrize("group", [1, 2, 3, 7])
def test_a_shared_factorisation_bounds_every_image(group: int) -> None:
    for seed in range(10):
        layer = random_layer(seed, images=5)
        norm = _prove(layer.masked, group=group)
        for image, value in enumerate(norm.value.tolist()):
            assert value >= norm_from_below(layer, image)


def test_alike_images_share_without_loss() -> None:
    layer = random_layer(2, images=2)
    order = torch.tensor([0, 1, 0, 1, 1, 0])
    alone, together = _prove(layer.masked).value[order], _prove(layer.masked.select(order), group=3).value
    assert torch.allclose(alone, together, rtol=1e-7, atol=0)


@pytest.mark.parametrize("images", [3, 6])
def test_images_share_what_is_too_much_for_each(images: int) -> None:
    for seed in range(10):
        layer = random_layer(seed, images=images)
        rows, columns = ((f != 0).flatten(1).sum(1) for f in (layer.masked.rows, layer.masked.columns))
        side = int(torch.minimum(rows, columns).max())
        if side < 4:
            continue
        alone = _prove(layer.masked, operations=side**3 / 7, share=1)
        together = _prove(layer.masked, operations=side**3 / 7, share=8)
        assert together.converged.sum() >= alone.converged.sum()
        for image, value in enumerate(together.value.tolist()):
            assert value >= norm_from_below(layer, image)


def test_a_budget_is_for_each_image() -> None:
    masked = Masked(
        whole(normal(9, 9)).map, torch.ones(4, 9, dtype=torch.float64), torch.ones(4, 9, dtype=torch.float64)
    )
    assert not _prove(masked, operations=9**3 / 3 / 5).converged.any()
    norm = _prove(masked, operations=9**3 / 3 / 4)
    assert norm.converged.all()
    assert torch.allclose(norm.value, _prove(masked).value, rtol=1e-7, atol=0)


def test_signs_of_factors_do_not_matter() -> None:
    layer = random_layer(0)
    masked = Masked(layer.masked.map, -layer.masked.rows, layer.masked.columns)
    assert torch.allclose(_prove(masked).value, _prove(layer.masked).value, rtol=1e-7, atol=0)


@pytest.mark.parametrize("settings", [{"largest": 5}, {"memory": 1000.0}])
def test_what_does_not_fit_is_refused(settings: dict[str, float]) -> None:
    assert not _prove(whole(normal(9, 9)), **settings).converged.any()
    map_, _ = chain((1, 6, 6), Conv(normal(3, 1, 3, 3), None, (1, 1), (1, 1)))
    ones = torch.ones(1, 3, 6, 6, dtype=torch.float64), torch.ones(1, 1, 6, 6, dtype=torch.float64)
    assert not _prove(Masked(map_, *ones), **settings).converged.any()


def test_no_images() -> None:
    masked = random_layer(0).masked.select(torch.zeros(2, dtype=torch.bool))
    assert _prove(masked).value.shape == (0,)


def test_weights_in_training_are_no_obstacle() -> None:
    term = term_of((1, 6, 6), Conv(normal(3, 1, 3, 3).requires_grad_(), None, (1, 1), (1, 1)))
    masked = Masked(term, torch.ones(1, 3, 6, 6, dtype=torch.float64), torch.ones(1, 1, 6, 6, dtype=torch.float64))
    value = float(_prove(masked).value)
    assert not _prove(masked).value.requires_grad
    assert value <= float(RandomLanczos()(masked, masked.columns).value)
    assert value <= global_norm(term, VerifiedCholesky()) <= operator_bound(term)


def test_float32_is_refused() -> None:
    masked = whole(normal(3, 3))
    with pytest.raises(TypeError):
        VerifiedCholesky()(Masked(masked.map, masked.rows.float(), masked.columns.float()), masked.columns)


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidInput):
        VerifiedCholesky(group=0)


def test_the_store_is_bounded() -> None:
    solver, maps = VerifiedCholesky(maps=2), [whole(normal(3, 3, seed=s)) for s in range(4)]
    for masked in maps:
        solver(masked, masked.columns)
    assert list(solver._matrices) == [m.map for m in maps[2:]]
