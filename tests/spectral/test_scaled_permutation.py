"""The norm of a map with one entry in a row and a column at most is its largest entry."""

from __future__ import annotations

import torch
from dense import Matrix
from drawing import Draw

from llcert.spectral import Masked, Side, scaled_permutation_norm


def drawn(seed: int) -> Masked:
    """A permutation of six entries into eight, scaled, some of them zero, masked for three images."""
    draw = Draw(seed)
    entries = torch.zeros(8, 6, dtype=torch.float64)
    entries[torch.randperm(8, generator=draw.generator)[:6], torch.arange(6)] = draw.normal(6) * draw.factors(6)
    return Masked(Matrix(entries), draw.factors(3, 8), draw.factors(3, 6))


def test_estimates_and_proofs_against_singular_values() -> None:
    for seed in range(30):
        masked = drawn(seed)
        assert isinstance(masked.map, Matrix)
        dense = masked.rows[:, :, None] * masked.map.entries * masked.columns[:, None]
        exact = torch.linalg.matrix_norm(dense, 2)
        estimate = scaled_permutation_norm(masked, masked.columns)
        proof = scaled_permutation_norm(masked, masked.columns, proved=True)
        torch.testing.assert_close(estimate.value, exact, rtol=1e-14, atol=1e-300)
        largest = dense.abs().amax((1, 2))  # the norm without the rounding of a singular value decomposition
        assert bool((proof.value >= largest).all())
        assert bool((proof.value <= largest * (1 + 1e-13) + 1e-290).all())
        assert proof.side is Side.UPPER
        assert bool(proof.converged.all())
