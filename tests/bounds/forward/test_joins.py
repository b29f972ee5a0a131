"""Several sources at once: never looser than the sum, never below what can be reached."""

from __future__ import annotations

import pytest
import torch
from dense import matrix
from torch import Tensor

from llcert.bounds.forward.joins import term_norms
from llcert.ir import Input, Network, apply
from llcert.ops import Add, Concat, Linear, Tanh
from llcert.program import Block, lower
from llcert.spectral import PowerIteration

TIGHT = PowerIteration(tolerance=1e-7, cap=20000)


def _block(seed: int, *, side_by_side: bool = False) -> Block:
    """The last block of `A tanh(x) + B x`, or of the two next to each other."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    image = apply(Input((3,)))
    parts = apply(Linear(weights[0]), apply(Tanh(), image)), apply(Linear(weights[1]), image)
    join = Concat(0) if side_by_side else Add()
    return lower(Network(apply(join, *parts)), dtype=torch.float64).blocks[-1]


def _reached(block: Block, radii: list[Tensor], solver: PowerIteration = TIGHT) -> tuple[float, float]:
    """The bound, and the plain sum of norm times radius."""
    rows, columns = torch.ones(1, *block.pre.shape, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    norms = [torch.linalg.matrix_norm(matrix(t), 2)[None] for t in block.terms]
    found = term_norms(block, rows, [columns, columns], norms, radii, solver, 0).deviation(radii)
    return float(found), float(sum(n * r for n, r in zip(norms, radii, strict=True)))


def _furthest(block: Block, radii: list[Tensor]) -> float:
    """The farthest that many random moves of both sources go."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(5000, *block.pre.shape, dtype=torch.float64)
    for term, radius in zip(block.terms, radii, strict=True):
        move = torch.nn.functional.normalize(torch.randn(5000, 3, generator=generator, dtype=torch.float64))
        total = total + term.apply(move * radius)
    return float(torch.linalg.vector_norm(total, dim=1).max())


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("ratio", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
def test_between_what_is_reached_and_the_sum(seed: int, ratio: float, side_by_side: bool) -> None:
    block = _block(seed, side_by_side=side_by_side)
    radii = [torch.tensor([r], dtype=torch.float64) for r in (1.0, ratio)]
    found, total = _reached(block, radii)
    assert _furthest(block, radii) <= found * (1 + 1e-9)
    assert found <= total * (1 + 1e-9)


def test_a_solver_that_does_not_converge_leaves_the_sum() -> None:
    radii = [torch.tensor([1.0], dtype=torch.float64)] * 2
    found, total = _reached(_block(0), radii, PowerIteration(tolerance=1e-12, cap=1))
    assert found == pytest.approx(total)


def test_sources_that_do_not_move() -> None:
    still = [torch.zeros(1, dtype=torch.float64)] * 2
    assert _reached(_block(0), still)[0] == 0


def test_nan_radii_stay_unknown() -> None:
    radii = [torch.tensor([r], dtype=torch.float64) for r in (1.0, torch.nan)]
    assert not _reached(_block(0), radii)[0] >= 0
