"""LipLT against dense matrices and the Jacobians of sampled points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from dense import matrix
from proofs import ORDERS, in_float32, prover
from random_graphs import random_network
from shared_graphs import shared_network
from torch import Tensor

from llcert.bounds import global_bound
from llcert.bounds.forward.row_weights import global_slopes
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.bounds.liplt import Composed, constant_at, loop_transforms
from llcert.certification.proof.hint import ProofHint
from llcert.ir import Input, Network, Node, apply
from llcert.ops import Affine, Leaky, Linear, MaxMin, Sigmoid, Tanh, relu
from llcert.ops.affine import slopes_between
from llcert.program import Program, Term, lower
from llcert.spectral import Lanczos, VerifiedCholesky

TIGHT = Lanczos(tolerance=1e-12, vectors=True)


def chain(*sizes: int, seed: int = 0, orthogonal: bool = False) -> Network:
    """Dense ReLU layers of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((sizes[0],), torch.float64))
    for number, (width, height) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(height, width, generator=generator, dtype=torch.float64)
        node = apply(Linear(weight, torch.zeros(height, dtype=torch.float64)), node)
        if number < len(sizes) - 2:
            node = apply(relu(), node)
    return Network(node)


def jacobians(program: Program, count: int, seed: int) -> Tensor:
    """Of the logits at random points, `[points, logits, entries]`."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, *program.input.shape, generator=generator, dtype=torch.float64) * 2
    points.requires_grad_()
    with torch.enable_grad():
        logits = program.logits(points)
        rows = [torch.autograd.grad(z.sum(), points, retain_graph=True, allow_unused=True)[0] for z in logits.unbind(1)]
    return torch.stack([torch.zeros_like(points) if r is None else r for r in rows], 1).flatten(2)


def dense_liplt(network: Network) -> float:
    """The formula of the paper for a chain of ReLU layers, written out with matrices."""
    maps = [n.op.weight for n in network.operators() if isinstance(n.op, Linear)]
    moved: list[float] = []
    for k in range(len(maps)):
        total, product = 0.0, maps[k]
        for j in range(k - 1, -1, -1):
            total += float(torch.linalg.matrix_norm(product / 2, 2)) * moved[j]
            product = product @ maps[j] / 2
        moved.append(total + float(torch.linalg.matrix_norm(product, 2)))
    return moved[-1]


def looped(program: Program) -> tuple[float, float, Tensor]:
    """The product, the least of it and LipLT, and the constants of pairs."""
    with torch.no_grad():
        product = global_bound(program, TIGHT)
        both = global_bound(program, TIGHT, composed=Composed.of(program))
    assert both.pairs is not None
    return float(product.logit_lipschitz), float(both.logit_lipschitz), both.pairs


@pytest.mark.parametrize("sizes", [(5, 4), (6, 5, 4), (6, 8, 7, 5, 3), (4, 9, 9, 9, 9, 3)])
def test_chains_of_relu_are_the_papers_formula_and_less_than_the_product(sizes: tuple[int, ...]) -> None:
    network = chain(*sizes)
    program = lower(network, dtype=torch.float64)
    if len(sizes) == 2:
        assert Composed.of(program) is None
        return
    product, found, _ = looped(program)
    assert found == pytest.approx(dense_liplt(network), rel=1e-6)
    assert found < product


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("make", [random_network, shared_network])
def test_never_below_the_norm_of_a_jacobian(make: object, seed: int) -> None:
    program = lower(make(seed), dtype=torch.float64)  # type: ignore[operator]
    composed = Composed.of(program)
    if composed is None:
        return
    with torch.no_grad():
        bound = global_bound(program, TIGHT, composed=composed)
    each = jacobians(program, 20, seed)
    assert float(torch.linalg.matrix_norm(each, 2).max()) <= float(bound.logit_lipschitz) * (1 + 1e-6)
    if bound.pairs is not None:
        differences = torch.linalg.vector_norm(each[:, :, None] - each[:, None], dim=3).amax(0)
        assert bool((differences <= bound.pairs * (1 + 1e-6) + 1e-12).all())


def exact(program: Program, composed: Composed) -> tuple[dict[Node, float], Tensor]:
    """The least of product and LipLT at every block, and the pairs, by dense matrices."""
    growth, before = {program.input: 1.0}, {}
    for block in program.blocks:
        slope = float(global_slopes(block).max())
        parts = [norm(t) * growth[t.source] for t in block.terms]
        product = math.hypot(*parts) if block.disjoint else sum(parts)
        maps = composed.maps[block.node]
        before[block.node] = min(
            product, sum(norm(t) * constant_at(leaf, 1.0, before, growth) for leaf, t in maps.items())
        )
        growth[block.node] = before[block.node] * slope
    last = composed.maps[program.output]
    rows = {leaf: matrix(t) for leaf, t in last.items()}
    pairs = sum((r[:, None] - r).norm(dim=2) * constant_at(leaf, 1.0, before, growth) for leaf, r in rows.items())
    assert isinstance(pairs, Tensor)
    return growth, pairs


def norm(term: Term) -> float:
    return float(torch.linalg.matrix_norm(matrix(term), 2))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("make", [random_network, shared_network])
def test_what_is_proved_is_just_above_the_truth(make: Callable[[int], Network], seed: int) -> None:
    program = lower(make(seed), dtype=torch.float64)
    composed = Composed.of(program)
    if composed is None:
        return
    proved, (growth, pairs) = proved_bound(program, VerifiedCholesky(), composed), exact(program, composed)
    for node, value in growth.items():
        assert value <= float(proved.lipschitz[node]) * (1 + 1e-12) <= value * 1.001 + 1e-9
    assert (proved.pairs is None) == (program.blocks[-1].activation is not None)
    if proved.pairs is not None:
        assert bool((pairs <= proved.pairs * (1 + 1e-12)).all())
        assert bool((proved.pairs <= pairs * 1.001 + 1e-9).all())


@pytest.mark.parametrize("sizes", [(6, 5, 4), (6, 8, 7, 5, 3), (4, 9, 9, 9, 9, 3)])
def test_proofs_of_chains_lose_little(sizes: tuple[int, ...]) -> None:
    program = lower(chain(*sizes), dtype=torch.float64)
    _, found, pairs = looped(program)
    proved = proved_bound(program, VerifiedCholesky(), Composed.of(program))
    assert proved.pairs is not None
    assert found <= float(proved.logit_lipschitz) <= found * 1.001
    assert bool((proved.pairs <= pairs * 1.001 + 1e-9).all())


@pytest.mark.parametrize(
    "activation",
    [
        relu(),
        Leaky(torch.tensor(0.3)),
        Leaky(torch.tensor(-1.0)),
        Leaky(torch.tensor(2.0)),
        Sigmoid(),
        Tanh(),
        MaxMin(),
        MaxMin(pairs=True),
        MaxMin(high=torch.tensor(0.3)),
        MaxMin(high=torch.tensor(0.3), low=torch.tensor(-0.2), pairs=True),
    ],
)
def test_loop_transformations_make_up_the_activation(activation: object) -> None:
    """What is left of differences once the linear parts are taken off is what remainders can make."""
    node = apply(activation, apply(Input((6,), torch.float64)))  # type: ignore[arg-type]
    program = lower(
        Network(apply(Linear(torch.eye(6, dtype=torch.float64), torch.zeros(6)), node)), dtype=torch.float64
    )
    (block, _) = program.blocks
    transforms = loop_transforms(block, torch.zeros((), dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(500, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    if len(transforms) > 1:  # sorting, then thresholds
        order = MaxMin(pairs=activation.pairs)  # type: ignore[attr-defined]
        stages = [(a, b, order(a), order(b)), (order(a), order(b), activation(a), activation(b))]  # type: ignore[operator]
    else:
        stages = [(a, b, activation(a), activation(b))]  # type: ignore[operator]
    for transform, (before, before_, after, after_) in zip(transforms, stages, strict=True):
        left = after - after_ - transform.linear.linear(before - before_)
        factors = matrix_of(transform.remainder, 6)
        eta = left @ torch.linalg.pinv(factors).T
        assert torch.allclose(eta @ factors.T, left, atol=1e-12)
        assert bool((eta.norm(dim=1) <= (before - before_).norm(dim=1) * (1 + 1e-12)).all())


def matrix_of(op: object, size: int) -> Tensor:
    return op.linear(torch.eye(size, dtype=torch.float64)).T  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(4))
def test_margins_of_pairs_pay_for_rounding(seed: int) -> None:
    """Large offsets that cancel: what float32 makes of them is far from the real logits, at one point even."""
    draw = torch.Generator().manual_seed(seed)
    weight, offset = torch.randn(6, 4, generator=draw), torch.full((6,), 1e5)
    inner = apply(relu(), apply(Linear(weight, offset), apply(Input((4,)))))
    last = torch.randn(3, 6, generator=draw)
    network = Network(apply(Linear(last, torch.zeros(3)), apply(Affine(shift=-offset), inner)))
    own, image = prover(network), torch.rand(1, 4, generator=draw)
    label = network(image.double()).argmax(1)
    assert own.liplt is not None
    assert own.liplt.global_bound.pairs is not None
    proved = own(image, label, ProofHint(local=False, liplt=True), 0.0)[0]
    for order in ORDERS.values():
        logits = in_float32(network, image, order)[network.output].double()[0]
        assert bool((proved <= logits[label] - logits)[torch.arange(3) != label].all())


def test_a_slope_that_rounds_away_makes_the_remainder_no_smaller() -> None:
    """Half of `1 - (-1e-20)` is computed as 0.5, which is below it."""
    transform = slopes_between(torch.tensor(-1e-20, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    assert float(transform.remainder.tensors()["scale"]) > 0.5
