"""The campaign of proofs: random small networks over all operators, proved margins against what points show.

CI runs a seeded 5 %; all of it: `pytest tests/certification/test_proofs.py --networks 10000`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from certificates import single
from proofs import ORDERS, Silly, in_float32, prover
from random_graphs import Draw, random_image, random_network
from torch import Tensor

from llcert.bounds import RowWeighting, VerifiedArithmetic, propagate
from llcert.bounds.backward import crown
from llcert.bounds.backward.choices import tightest
from llcert.bounds.forward.outward import enclosing_ball
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.settings import Semantics
from llcert.ir import Input, Network, Node, apply, place
from llcert.ops import Add, Affine, BatchNorm, Clamp, Concat, Leaky, Linear, MaxMin, Sigmoid, Tanh, relu

BATCH = 50
"""Networks a test; one in five is a random graph over all operators, the others have two inputs."""

HINTS = (
    ProofHint(local=True, backward=True),
    ProofHint(local=True),
    ProofHint(local=False),
    ProofHint(local=True, weighting=RowWeighting.SECANT),
    ProofHint(local=True, weighting=RowWeighting.SECANT, backward=True),
)
EPS = (0.0, 1e-5, 0.03, 0.1, 0.2, 0.4, 1.0, 3.0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    networks = metafunc.config.getoption("--networks")
    metafunc.parametrize("first", range(0, networks, BATCH))


def test_no_proved_margin_is_above_an_observed_one(first: int) -> None:
    for seed in range(first, first + BATCH):
        graph = seed % 5 == 0
        network = single(random_network(seed) if graph else tiny_network(seed))
        image = random_image(network, seed).float()
        check(network, image, EPS[seed // 5 % len(EPS)], seed)


def check(network: Network, image: Tensor, eps: float, seed: int) -> None:
    semantics = list(Semantics)[seed // 7 % 2]
    label = network(image.double()).argmax(1)
    own, hint = prover(network, semantics), HINTS[seed % len(HINTS)]
    every = torch.stack([own(image, label, hint, eps)[0], *carried(own, image, label, hint, seed, eps)])
    margins = torch.where(every.isnan(), -torch.inf, every).amax(0)
    found = least_margins(network, image.double(), int(label), eps * (1 - 1e-9), seed)
    others = torch.arange(len(margins)) != label
    assert holds(margins, found + 1e-12, others), f"network {seed}: {margins} proved, {found} found"
    if semantics is Semantics.DEPLOYED:
        points = ball_points(image.double(), eps * (1 - 1e-6), 30, seed).float()
        away = torch.linalg.vector_norm((points.double() - image.double()).flatten(1), dim=1)
        points = torch.cat([image, points[away <= eps]])
        order = list(ORDERS.values())[seed % len(ORDERS)]
        logits = in_float32(network, points, order, flush=seed % 3 == 0)[network.output].double()
        observed = differences(logits, int(label)).amin(0)
        assert holds(margins, observed, others), f"network {seed}: {margins} proved, {observed} in float32"


@torch.no_grad()
def carried(own: Prover, image: Tensor, label: Tensor, hint: ProofHint, seed: int, eps: float) -> list[Tensor]:
    """Bounds of all margins carried to the image, whether the prover needs them or not, with any choices."""
    solver = own.solver if hint.local else None
    ball = enclosing_ball(image.double(), eps)
    trace = propagate(
        own.program, ball, VerifiedArithmetic(own.global_bound, solver, deployed=own.deployed), weighting=hint.weighting
    )
    rows, backward = {own.program.output: crown.differences(label, own.program)}, crown.Backward(own.program)
    return [
        backward(trace, rows, tightest).lower[0],
        backward(trace, rows, tightest, best_stop=True).lower[0],
        backward(trace, rows, Silly(seed), best_stop=True).lower[0],
    ]


def holds(proved: Tensor, observed: Tensor, others: Tensor) -> bool:
    """Whether no proved margin is above an observed one; where that is NaN, as of a window that sees only padding,
    nothing may be proved."""
    return bool(((proved <= observed) | (proved == -torch.inf))[others].all())


def differences(logits: Tensor, label: int) -> Tensor:
    return logits[:, label, None] - logits


def ball_points(image: Tensor, eps: float, count: int, seed: int) -> Tensor:
    """Points of the ball: of a disc a polar grid, else random ones, half of them on the sphere."""
    if image.numel() == 2:
        angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        rim = torch.stack([angle.cos(), angle.sin()], 1)
        radii = torch.linspace(0, eps, 13, dtype=torch.float64)
        return (image.flatten() + (radii[:, None, None] * rim).reshape(-1, 2)).reshape(-1, *image.shape[1:])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, image[0].numel(), generator=generator, dtype=torch.float64)
    size = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    size[::2] = 1
    return image + (eps * size * torch.nn.functional.normalize(noise)).reshape(-1, *image.shape[1:])


@torch.no_grad()
def least_margins(network: Network, image: Tensor, label: int, eps: float, seed: int) -> Tensor:
    """The least margins over each class that are found: on a grid, then nearer and nearer around the worst points.

    The vertices of linear pieces, and the points where they meet the rim, are where the least values lie: a search
    that narrows by half comes as near to them as float64 can tell.
    """
    wide = place(network.output, "cpu", torch.float64)
    function = replace(network, output=wide)
    points = ball_points(image, eps, 96, seed)
    best, where = differences(function(points), label).min(0)
    worst = points[where]
    generator = torch.Generator().manual_seed(seed)
    reach, disc = eps / 2, image.numel() == 2
    for _ in range(22 if disc else 10):
        noise = torch.randn(16, *worst.shape, generator=generator, dtype=torch.float64)
        near = torch.cat([worst[None], worst + reach * noise / image[0].numel() ** 0.5])
        if not disc:
            near = torch.cat([near, descended(function, worst, label, reach)[None]])
        moved = near - image
        size = torch.linalg.vector_norm(moved.flatten(2), dim=2).clamp(min=1e-300)
        near = image + moved * (eps / size).clamp(max=1).reshape(*size.shape, *[1] * (image.ndim - 1))
        logits = function(near.flatten(0, 1))
        found = differences(logits, label).unflatten(0, near.shape[:2]).diagonal(dim1=1, dim2=2)
        value, place_ = found.min(0)
        worst = torch.where(
            (value < best).reshape(-1, *[1] * (image.ndim - 1)), near[place_, torch.arange(len(best))], worst
        )
        best, reach = torch.minimum(best, value), reach * 0.6
    return best


def descended(function: Network, points: Tensor, label: int, reach: float) -> Tensor:
    """One step down the gradient of each class's own margin."""
    with torch.enable_grad():
        moving = points.clone().requires_grad_()
        margins = differences(function(moving), label).diagonal()
        (gradient,) = torch.autograd.grad(margins.sum(), moving, allow_unused=True)
    if gradient is None:
        return points
    return points - 2 * reach * torch.nn.functional.normalize(gradient.flatten(1)).reshape(points.shape)


def tiny_network(seed: int) -> Network:
    """Two inputs, two to four layers of two to six neurons, any activation, residuals and concatenations."""
    draw = Draw(seed)
    node = apply(Input((2,)))
    for _ in range(draw.choices.randint(1, 3)):
        kind = draw.choices.random()
        hidden = activated(draw, dense(draw, node, draw.choices.choice([2, 4, 6])))
        if kind < 0.15:
            hidden = apply(Concat(0), hidden, node)
        elif kind < 0.3:
            hidden = apply(Add(), dense(draw, hidden, 3), dense(draw, node, 3))
        elif kind < 0.4:
            hidden = apply(Add(), hidden, activated(draw, dense(draw, node, hidden.shape[0])))
        elif kind < 0.45:
            size = hidden.shape[0]
            statistics = (draw.normal(size), draw.normal(size), draw.normal(size), draw.positive(size))
            hidden = apply(BatchNorm(*statistics, spatial=0), hidden)
        elif kind < 0.5:
            hidden = activated(draw, apply(Affine(draw.normal(1), draw.normal(hidden.shape[0])), hidden))
        node = hidden
    return Network(dense(draw, node, draw.choices.choice([2, 3])))


def dense(draw: Draw, node: Node, out: int) -> Node:
    weight = draw.normal(out, node.shape[0]) * draw.choices.choice([0.3, 1.0, 1.0, 3.0])
    bias = draw.normal(out) * draw.choices.choice([0.0, 0.5, 1.0])
    if draw.choices.random() < 0.1:
        weight[:, 0] = 0
    return apply(Linear(weight, bias), node)


def activated(draw: Draw, node: Node) -> Node:
    """One activation; thresholds may cross, lie at the same place, or be missing."""
    size = node.shape[0]
    number = torch.tensor(draw.choices.choice([-0.5, 0.0, 0.3, 1.0]), dtype=torch.float64)
    choices = [
        relu(),
        relu(),
        Clamp(torch.zeros(()), draw.positive(size)),
        Clamp(number, draw.normal(size)),
        Clamp(None, draw.normal(size)),
        Clamp(number, number),
        Leaky(torch.tensor(draw.choices.choice([0.1, -1.0, 1.0, 1.5, 0.0, -0.3]))),
        Leaky(draw.normal(size)),
    ]
    if size % 2 == 0:
        pairs, half = draw.choices.random() < 0.5, draw.normal(size // 2)
        choices += [MaxMin(0, pairs), MaxMin(0, pairs), MaxMin(0, pairs, half.abs(), -half.abs())]
        choices += [MaxMin(0, pairs, number), MaxMin(0, pairs, None, half), MaxMin(0, pairs, -half, half)]
    if draw.choices.random() < 0.1:
        choices = [Sigmoid(), Tanh()]
    return apply(draw.choices.choice(choices), node)
