"""Composed maps as one batch: the same values and gradients as map by map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from drawing import normal
from random_graphs import random_network
from shared_graphs import shared_network
from torch import Tensor

from llcert.api import from_torch
from llcert.bounds import GlobalBound, global_bound
from llcert.bounds.global_lipschitz.stacked import Stacked
from llcert.bounds.liplt import Composed, distances
from llcert.ir import Input, Network, apply
from llcert.numerics.tensors import length
from llcert.ops import Leaky, Linear, relu
from llcert.program import Program, Term, lower
from llcert.spectral import Lanczos
from llcert_train.zoo import build

MAKERS = [random_network, shared_network]


def stacked(program: Program) -> Stacked | None:
    composed = Composed.of(program)
    return None if composed is None else Stacked.of(program, composed)


def drawn(terms: tuple[Term, ...], seed: int) -> dict[Term, Tensor]:
    """Unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    vectors = {t: torch.randn(1, *t.columns, generator=generator, dtype=torch.float64) for t in terms}
    return {t: v / v.norm() for t, v in vectors.items()}


def zoo(arch: str, activation: str = "relu") -> Network:
    torch.manual_seed(0)
    module = build(arch, input_shape=(1, 12, 12), classes=4, activation=activation)
    return from_torch(module, torch.zeros(1, 1, 12, 12))


def agree(program: Program, seed: int) -> int:
    """How many terms of the program have norms that follow, after everything was compared with single maps."""
    own = stacked(program)
    if own is None:
        return 0
    vectors = drawn(own.terms, seed)
    known = own.known(vectors)
    assert set(known.composed) == set(own.terms)
    for term, (norm, vector) in known.composed.items():
        torch.testing.assert_close(norm, length(term.apply(vector))[0])
        assert vector is vectors[term]
    for term, (image, vector) in known.without_slopes.items():
        torch.testing.assert_close(image, term.apply(vector))
    unit = torch.eye(*program.output.shape * 2, dtype=torch.float64)
    last = own.composed.maps[program.output]
    assert known.apart is not None
    assert set(known.apart) == set(last)
    for origin, term in last.items():
        torch.testing.assert_close(known.apart[origin], distances(term.adjoint(unit)), rtol=1e-6, atol=1e-7)
    return len(own.direct)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("make", MAKERS)
def test_products_are_those_of_single_maps(make: Callable[[int], Network], seed: int) -> None:
    agree(lower(make(seed), dtype=torch.float64), seed)


@pytest.mark.parametrize(
    ("arch", "activation", "direct"),
    [("tiny-conv", "relu", 3), ("small-conv", "relu", 3), ("residual-bn", "relu", 5), ("tiny-conv", "relu-theta", 3)],
)
def test_chains_and_residual_networks(arch: str, activation: str, direct: int) -> None:
    """Every term of a chain but the last follows from a composed map."""
    assert agree(lower(zoo(arch, activation), dtype=torch.float64), 0) == direct


def both_bounds(program: Program) -> tuple[GlobalBound, GlobalBound]:
    """The global bound with norms by iteration, and with those that the stacked maps give at their singular vectors."""
    own = stacked(program)
    assert own is not None
    with torch.no_grad():
        tight = global_bound(program, Lanczos(tolerance=1e-12, vectors=True), composed=own.composed, joint=False)
        known = own.known({t: tight.vectors[t] / tight.vectors[t].norm() for t in own.terms})
        bound = global_bound(program, composed=own.composed, known=known, starts=tight.vectors, joint=False)
    return tight, bound


@pytest.mark.parametrize("arch", ["tiny-conv", "residual-bn"])
def test_singular_vectors_give_the_bound(arch: str) -> None:
    program = lower(zoo(arch), dtype=torch.float64)
    tight, bound = both_bounds(program)
    assert bound.pairs is not None
    torch.testing.assert_close(bound.pairs, tight.pairs)
    for node, constant in bound.lipschitz.items():
        if node is not program.output:
            torch.testing.assert_close(constant, tight.lipschitz[node])
    assert float(bound.lipschitz[program.output]) >= float(tight.lipschitz[program.output])


def test_rows_of_different_slopes_have_a_norm_of_their_own() -> None:
    """The singular vector of a map is not that of the map with slopes behind its rows."""
    slopes = torch.tensor([20.0, 1.0, -5.0, 0.1], dtype=torch.float64)
    node = apply(Leaky(slopes), apply(Linear(normal(4, 3, seed=1)), apply(Input((3,), torch.float64))))
    node = apply(relu(), apply(Linear(normal(4, 4, seed=2)), node))
    program = lower(Network(apply(Linear(normal(3, 4, seed=3)), node)), dtype=torch.float64)
    tight, bound = both_bounds(program)
    (term,) = program.blocks[0].terms
    torch.testing.assert_close(bound.norms[term], tight.norms[term])
