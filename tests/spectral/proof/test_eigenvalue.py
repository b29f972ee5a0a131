"""Gram matrices and bounds of their largest eigenvalues, dense and banded, against extended precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawing import normal
from random_layers import Extended
from scipy.sparse import coo_array, csr_array

from llcert.spectral.proof import banded, dense, eigenvalue


@pytest.mark.parametrize("rows", [1, 3])
def test_gram_matrices_are_as_wrong_as_they_say(rows: int) -> None:
    for seed in range(30):
        entry, length = float(normal(1, seed=seed)), 1000 + 371 * seed
        b = torch.full((1, rows, length), entry, dtype=torch.float64)
        exact = np.longdouble(entry) ** 2 * length
        densely = dense.gram(b)
        assert np.abs(densely.entries[0].numpy() - exact).max() * rows <= float(densely.error) <= 1e-6 * exact
        sparsely = banded.banded_gram(csr_array(b[0].T.numpy()), np.arange(rows))
        assert np.abs(sparsely.entries.data - exact).max() * rows <= sparsely.error <= 1e-6 * exact


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_proofs_at_the_edge_of_rounding(size: int) -> None:
    """A factorisation may succeed a little below the eigenvalue; the bound is above it all the same."""
    succeeded = 0
    for seed in range(30):
        b = normal(1, size, size + 3, seed=seed)
        matrix = dense.Gram(dense.gram(b).entries, torch.zeros(1, dtype=torch.float64))
        truth = _largest_eigenvalue(matrix.entries[0].numpy().astype(np.longdouble))
        sparsely = banded.BandedGram(coo_array(matrix.entries[0].numpy()), size - 1, 0.0)
        for step in range(-4, 40, 2):
            tau = float(truth) * (1 + step * 2.0**-53)
            bounds = (
                float(dense.eigenvalue_bound(matrix, torch.tensor([tau], dtype=torch.float64))),
                banded.eigenvalue_bound(sparsely, tau),
            )
            assert min(np.longdouble(x) for x in bounds) >= truth
            succeeded += math.isfinite(max(bounds))
    assert succeeded > 100


def _largest_eigenvalue(matrix: Extended) -> np.longdouble:
    """The largest eigenvalue of a symmetric matrix in extended precision, rounded down by a few units."""
    v = np.linalg.eigh(matrix.astype(np.float64))[1][:, -1].astype(np.longdouble)
    for _ in range(3):
        v = matrix @ v
        v = v / np.sqrt(v @ v)
    return v @ (matrix @ v) / (v @ v) * (1 - 8 * len(v) * np.finfo(np.longdouble).eps)


def test_estimates_of_hermitian_matrices() -> None:
    phases = torch.polar(torch.ones(9, dtype=torch.float64), torch.arange(9).double())
    assert eigenvalue.estimate(np.diag(np.arange(5.0))) == pytest.approx(4, rel=1e-9)
    assert eigenvalue.estimate(csr_array(np.diag(np.arange(5.0)))) == pytest.approx(4, rel=1e-9)
    assert eigenvalue.estimate(torch.outer(phases, phases.conj()).numpy()) == pytest.approx(9, rel=1e-9)
    assert math.isnan(eigenvalue.estimate(np.zeros((5, 5))))
