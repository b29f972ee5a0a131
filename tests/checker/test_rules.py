"""Single rules of the checker against brute force, up to the last digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse

from llcert.checker import norms
from llcert.checker.activations import Clamp, Leaky, MaxMin
from llcert.checker.blocks import Map
from llcert.checker.norms import Part, proves
from llcert.checker.numbers import down, gamma, least_product, length, up
from llcert.checker.row import _least

SEEDS = range(30)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The checker is silent about NaN and infinity, which lose every comparison."""
    with np.errstate(all="ignore"):
        yield


def mapped(A: np.ndarray) -> Map:
    return Map(sparse.csr_array(A), sparse.csr_array(abs(A)), 0)


def random_matrix(rng: np.random.Generator) -> np.ndarray:
    rows, columns = (int(n) for n in rng.integers(1, 60, 2))
    A = rng.normal(size=(rows, columns))
    kind = rng.integers(4)
    if kind == 1:  # banded
        A *= abs(np.arange(rows)[:, None] * columns / rows - np.arange(columns)) < 2
    elif kind == 2:  # a band in another order
        A *= abs(np.arange(rows)[:, None] * columns / rows - np.arange(columns)) < 2
        A = A[rng.permutation(rows)][:, rng.permutation(columns)]
    elif kind == 3:
        A *= rng.random(A.shape) < 0.1
    return A * 10.0 ** rng.integers(-6, 6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_norm_is_proved_just_above_the_truth_and_never_below(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = random_matrix(rng)
    weights = rng.random(A.shape[0]) * (rng.random(A.shape[0]) < 0.7)
    mask = rng.random(A.shape[1]) < 0.7
    true = float(np.linalg.norm(weights[:, None] * A * mask, 2)) if A.size else 0.0
    part = [Part(mapped(A), mask)]
    assert proves(part, weights, true * (1 + 1e-9))
    if true > 0:
        for below in (1 - 1e-13, 1 - 1e-9, 0.9, 0.0):
            assert not proves(part, weights, true * below)
    assert not proves(part, weights, math.nan)
    assert not proves([Part(mapped(A * np.nan), mask)], weights, 1e9) or true == 0


@pytest.mark.parametrize("way", ["_dense", "_banded"])
@pytest.mark.parametrize("seed", range(10))
def test_both_factorisations_prove_the_same(way: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "SPARSE_SHARE", 2.0)
    monkeypatch.setattr(norms, "BAND_SHARE", 2.0 if way == "_banded" else 0.0)
    monkeypatch.setattr(norms, "schur", lambda m: float(np.linalg.norm(m.toarray(), 2)) * (1 + 1e-9))  # never in time
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(30, 40)) * (rng.random((30, 40)) < 0.3)
    true = float(np.linalg.norm(A, 2))
    part = [Part(mapped(A), np.ones(40, bool))]
    assert proves(part, np.ones(30), true * (1 + 1e-9))
    assert not proves(part, np.ones(30), true * (1 - 1e-12))


@pytest.mark.parametrize("seed", range(10))
def test_maps_side_by_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps, shares, w = [rng.normal(size=(8, n)) for n in (3, 12)], rng.uniform(0.5, 2, 2), rng.random(8)
    true = float(np.linalg.norm(np.hstack([s * w[:, None] * A for s, A in zip(shares, maps, strict=True)]), 2))
    parts = [Part(mapped(A), np.ones(A.shape[1], bool), float(s)) for s, A in zip(shares, maps, strict=True)]
    assert proves(parts, w, true * (1 + 1e-9))
    assert not proves(parts, w, true * (1 - 1e-12))


def test_errors_of_a_composed_map_are_paid_for() -> None:
    A, big = np.eye(2), np.full((2, 2), 1e8)
    assert proves([Part(Map(sparse.csr_array(A), sparse.csr_array(A), 10), np.ones(2, bool))], np.ones(2), 1 + 1e-9)
    assert not proves(
        [Part(Map(sparse.csr_array(A), sparse.csr_array(big), 10), np.ones(2, bool))], np.ones(2), 1 + 1e-9
    )


def test_a_map_of_nothing_has_norm_0() -> None:
    part = [Part(mapped(np.ones((3, 3))), np.zeros(3, bool))]
    assert proves(part, np.ones(3), 0.0)
    assert proves([Part(mapped(np.ones((3, 3))), np.ones(3, bool))], np.zeros(3), 0.0)


# activations


def boxes(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres and boxes, many of them with an end, the centre or everything on a knot."""
    c = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0, *rng.normal(size=5)], n)
    return c, c - rng.choice([0.0, 0.5, 1.0, rng.random()], n), c + rng.choice([0.0, 0.5, 1.0, rng.random()], n)


def random_activation(rng: np.random.Generator, n: int) -> Clamp | Leaky:
    if rng.random() < 0.5:
        return Leaky(rng.choice([-1.0, 0.0, 0.1, 1.0, 2.0, -0.3], n))
    low = rng.choice([-np.inf, -0.5, 0.0], n)
    return Clamp(low, np.maximum(low, rng.choice([np.inf, 0.0, 0.5, 1.0], n)))


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_bound_every_chord_and_hardly_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phi, (c, lower, upper) = random_activation(rng, 40), boxes(rng, 40)
    weights = phi.weights(c, lower, upper)
    z = np.clip(np.vstack([lower + (upper - lower) * t for t in np.linspace(0, 1, 2001)]), lower, upper)
    rise, run = abs(np.array([phi(row) for row in z]) - phi(c)), abs(z - c)
    assert np.all(rise <= weights * run + 1e-15)
    chord = np.where(run > 1e-9, rise / np.where(run > 1e-9, run, 1), 0).max(0)
    assert np.all(weights <= chord + 0.02)
    if isinstance(phi, Clamp):
        assert np.all(weights[phi.constant(lower, upper)] == 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_images_contain_and_constants_are_constant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, lower, upper = boxes(rng, 40)
    pairs = rng.permutation(40)
    clip = rng.choice([np.inf, 0.5, 0.0, -0.5], (2, 20))
    for phi in (random_activation(rng, 40), MaxMin(pairs[:20], pairs[20:], -clip[0], clip[1])):
        z = lower + (upper - lower) * rng.choice([0.0, 1.0, rng.random()], (2000, 40))
        values = np.array([phi(row) for row in np.clip(z, lower, upper)])
        low, high = phi.image(lower, upper)
        assert np.all((low <= values) & (values <= high))
        assert np.all(np.ptp(values, 0)[phi.constant(lower, upper)] == 0)
        weights = phi.weights(c, lower, upper)
        z = np.clip(lower + (upper - lower) * rng.random((2000, 40)), lower, upper)
        moved = np.linalg.norm(np.array([phi(row) for row in z]) - phi(c), axis=1)
        assert np.all(moved <= np.linalg.norm(weights * (z - c), axis=1) + 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_least_value_of_a_step_is_below_all_and_no_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phi, (c, lower, upper) = random_activation(rng, 40), boxes(rng, 40)
    a, g = rng.normal(size=40), rng.normal(size=40)
    curvature = rng.choice([0.0, 1e-300, 1e-9, 0.5, 30.0, 1e9], 40)
    found = _least(phi.pieces(), a, g, curvature, (c, lower, upper))
    ends = np.clip(np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None], lower, upper)
    z = np.clip(np.vstack([*(lower + (upper - lower) * t for t in np.linspace(0, 1, 4001)), *ends, c]), lower, upper)
    tried = (a * np.array([phi(row) for row in z]) - g * z + curvature / 2 * (z - c) ** 2).min(0)
    assert np.all(found <= tried)
    close = curvature <= 30
    assert np.all(found[close] >= tried[close] - 1e-4)


# numbers


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_and_lengths_are_on_their_side_of_the_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=30) * 10.0 ** rng.integers(-8, 8, 30) for _ in range(2))
    exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))
    assert Fraction(least_product(a, b)) <= exact
    assert Fraction(length(a)) ** 2 >= sum(Fraction(x) ** 2 for x in a)
    assert length(np.zeros(3)) == 0
    tiny = np.array([1e-200])
    assert length(tiny) > 0
    assert down(1.0) < 1 < up(1.0)


def test_gamma_is_not_below_the_truth_and_ends() -> None:
    for n in (0, 1, 5, 10**6):
        assert Fraction(gamma(n)) >= Fraction(n, 2**53) / (1 - Fraction(n, 2**53))
    assert gamma(0) == 0
    assert gamma(2**52) == math.inf
