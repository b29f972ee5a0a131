"""Rule 4: what a factorisation proves of a norm is true, and fails just below the norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

from llcert.checker import norms
from llcert.checker.blocks import Map
from llcert.checker.norms import Part, proves

SEEDS = range(30)
pytestmark = pytest.mark.usefixtures("quiet")


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
