"""Norms are found again only where a factor changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from dense import Matrix
from torch import Tensor

from llcert.spectral import CachingSolver, Masked, Norm, VerifiedCholesky


@dataclass
class Counting:
    """Proves norms, and counts the maps."""

    asked: int = 0
    proved: VerifiedCholesky = field(default_factory=VerifiedCholesky)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        self.asked += masked.batch
        return self.proved(masked, start)


def test_only_changed_maps_are_asked_again() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (Matrix(torch.randn(4, 5, generator=generator, dtype=torch.float64)) for _ in range(2))
    rows, columns = (torch.ones(3, n, dtype=torch.float64) for n in (4, 5))
    counting = Counting()
    solver = CachingSolver(counting)

    def check(masked: Masked, asked: int) -> None:
        before = counting.asked
        norm = solver(masked, masked.columns)
        assert counting.asked - before == asked
        torch.testing.assert_close(norm.value, VerifiedCholesky()(masked, masked.columns).value, rtol=1e-6, atol=0)
        assert bool(norm.converged.all())

    check(Masked(first, rows, columns), 3)
    check(Masked(first, rows, columns), 0)
    check(Masked(second, rows, columns), 3)
    fewer, narrower = rows.clone(), columns.clone()
    fewer[1, 2], narrower[2, 0] = 0, 0.5
    check(Masked(first, fewer, columns), 1)
    check(Masked(first, fewer, narrower), 1)
    check(Masked(first, rows[:2], columns[:2]), 2)
