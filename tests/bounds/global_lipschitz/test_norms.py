"""Norms of whole maps: proved tightly once a network, and asked of no solver again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from dense import exact_norm
from proofs import prover_of
from random_layers import Draw, chain, largest, random_layer
from torch import Tensor

from llcert.bounds import VerifiedArithmetic, propagate
from llcert.bounds.forward.joins import SideBySide
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.norms import global_norm, operator_bound
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.certification import Settings
from llcert.certification.proof.hint import ProofHint
from llcert.ir import Input, Network, apply
from llcert.ops import Conv, Linear, MaxMin, Reshape, relu
from llcert.program import Term, lower
from llcert.spectral import Masked, MaskedOnly, Norm, Side, Solver, VerifiedCholesky


@dataclass(frozen=True)
class Watched:
    """A solver, and how many images it was asked about at each call."""

    solver: Solver = field(default_factory=VerifiedCholesky)
    asked: list[int] = field(default_factory=list)

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        self.asked.append(masked.batch)
        return self.solver(masked, start)


def smoothing(size: int, kernel: int) -> tuple[Term, float]:
    """A convolution in one dimension whose norm the torus meets, or misses by a percent, and that norm."""
    weight = torch.tensor([1.0, 2.0, 1.0] if kernel == 3 else [1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64)
    term, matrix = chain((1, size), Conv(weight[None, None], None, (1,), (kernel // 2,), (1,)))
    return term, float(largest(matrix))


def test_a_factorisation_is_spared_where_the_operators_are_close() -> None:
    for kernel, calls in ((3, 0), (5, 1)):
        term, truth = smoothing(12, kernel)
        watched = Watched()
        assert truth <= global_norm(term, watched) <= truth * (1 + 1e-7)
        assert len(watched.asked) == calls
        assert (operator_bound(term) <= truth * (1 + 1e-7)) == (calls == 0)


def test_a_solver_that_fails_leaves_the_operators_bound() -> None:
    term, truth = smoothing(12, 5)
    assert truth <= global_norm(term, VerifiedCholesky(operations=1.0)) == operator_bound(term) < math.inf


def network(seed: int, *, rectified: bool = False) -> Network:
    """A convolution and two dense layers with MaxMin between them; rectified: ReLU in place of the first."""
    draw = Draw(seed)
    node = apply(
        Conv(draw.normal(4, 2, 3, 3) / 4, draw.normal(4), (1, 1), (1, 1)), apply(Input((2, 5, 5), torch.float64))
    )
    node = apply(relu() if rectified else MaxMin(), node)
    node = apply(Reshape((100,)), node)
    node = apply(MaxMin(), apply(Linear(draw.normal(20, 100) / 10, draw.normal(20)), node))
    return Network(apply(Linear(draw.normal(4, 20) / 4, draw.normal(4)), node))


@pytest.mark.parametrize("rectified", [False, True])
def test_a_pass_is_the_same_without_asking_for_whole_maps(rectified: bool) -> None:
    program = lower(network(0, rectified=rectified), dtype=torch.float64)
    bound = proved_bound(program, VerifiedCholesky())
    images = torch.rand(3, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ball, watched = enclosing_ball(images, 0.05), Watched()
    plain = propagate(program, ball, VerifiedArithmetic(bound, VerifiedCholesky()))
    spared = propagate(program, ball, VerifiedArithmetic(bound, MaskedOnly(watched, bound.norms)))
    assert spared.side is Side.UPPER
    for block in program.blocks:
        radii = (t.post_activation[block.node].region.radius for t in (plain, spared))
        torch.testing.assert_close(*radii, rtol=1e-7, atol=0)
    assert (sum(watched.asked) > 0) == rectified


def test_only_what_is_cut_is_asked_for() -> None:
    """In a batch of both; a whole map has no norm, and one of several maps side by side is always asked for."""
    layer = random_layer(2, images=4)
    term = layer.masked.map
    assert isinstance(term, Term)
    rows, columns = torch.ones_like(layer.masked.rows), torch.ones_like(layer.masked.columns)
    rows[1].view(-1)[0] = 0.0
    columns[2].view(-1)[0] = 0.5
    watched, masked = Watched(), Masked(term, rows, columns)
    norm = MaskedOnly(watched, {term})(masked, columns)
    assert watched.asked == [2]
    assert norm.converged.tolist() == [False, True, True, False]
    assert norm.value.isinf().tolist() == [True, False, False, True]
    for image in (1, 2):
        assert float(norm.value[image]) >= exact_norm(masked, image) * (1 - 1e-14)
    joint = SideBySide((term,))
    MaskedOnly(watched, {term})(Masked(joint, rows, columns.flatten(1)), columns.flatten(1))
    assert watched.asked == [2, 4]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_factor_that_is_no_number_is_no_whole_map(poison: float) -> None:
    layer = random_layer(2, images=1)
    rows = torch.ones_like(layer.masked.rows)
    rows.view(-1)[0] = poison
    norm = MaskedOnly(VerifiedCholesky(), {layer.masked.map})(
        Masked(layer.masked.map, rows, torch.ones_like(layer.masked.columns)), rows
    )
    assert not norm.converged.any()


def test_whole_layers_are_proved_beyond_what_an_image_may_take() -> None:
    """A map of 4,096 columns, for which the torus is too large."""
    weight = Draw(0).normal(4, 4, 3, 3)
    node = apply(Conv(weight, None, (1, 1), (1, 1)), apply(Input((4, 32, 32), torch.float64)))
    net = Network(apply(Linear(Draw(1).normal(3, 4096)), apply(Reshape((4096,)), apply(relu(), node))))
    term = lower(net, dtype=torch.float64).blocks[0].terms[0]
    tight, torus = global_norm(term, VerifiedCholesky()), operator_bound(term)
    assert torus > tight * (1 + 2e-4)
    for seconds, expected in ((1e-6, torus), (0.05, tight)):
        prover = prover_of(net, Settings(0.1, proof_seconds=seconds))
        assert float(prover.global_bound.norms[prover.program.blocks[0].terms[0]]) == pytest.approx(expected, rel=1e-12)


def test_maxmin_networks_ask_for_no_norm_of_an_image() -> None:
    net = network(1)
    prover = prover_of(net, Settings(0.05))
    assert isinstance(prover.solver, MaskedOnly)
    watched = Watched()
    object.__setattr__(prover.solver, "solver", watched)
    images = torch.rand(3, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    margins = [prover(images, net(images).argmax(1), ProofHint(local=local), 0.05) for local in (False, True)]
    torch.testing.assert_close(*margins, rtol=1e-7, atol=1e-9)
    assert sum(watched.asked) == 0


def test_what_a_solver_does_not_vouch_for_is_not_trusted() -> None:
    """Finite or not."""

    def doubtful(masked: Masked, start: Tensor) -> Norm:
        one = torch.ones(masked.batch, dtype=torch.float64)
        return Norm(one, Side.UPPER, start, one.to(torch.int64), one == 0)

    (term,) = lower(Network(apply(Linear(torch.ones(2, 3)), apply(Input((3,))))), dtype=torch.float64).blocks[0].terms
    rows, columns = torch.ones(2, 2, dtype=torch.float64), torch.tensor([[1.0, 0, 1], [1, 1, 1]], dtype=torch.float64)
    norm = MaskedOnly(doubtful, {term})(Masked(term, rows, columns), columns)
    assert not norm.converged.any()
    assert norm.value.tolist() == [1, torch.inf]
