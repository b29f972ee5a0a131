"""Backward passes against sampling and attack, from the output and from any block, with good and with silly choices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawing import normal
from proofs import Silly, points_of, proved, values_of
from random_graphs import in_format, random_image, random_network
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.alpha import Ascent
from llcert.bounds.backward.choices import Policy, fixed, tightest
from llcert.bounds.backward.crown import Backward, differences
from llcert.ir import Activation, Input, Network, Node, apply
from llcert.ops import Add, Clamp, Concat, Leaky, Linear, MaxMin, Tanh, relu
from llcert.program import Program

ROWS = 3
SEEDS = range(20)


def dense(node: Node, out: int, seed: int) -> Node:
    return apply(
        Linear(normal(out, node.shape[0], seed=seed) / node.shape[0] ** 0.5, normal(out, seed=seed + 50)), node
    )


def _residual() -> Node:
    first = apply(relu(), dense(apply(Input((3,))), 4, 0))
    second = apply(Clamp(torch.tensor(0.0), torch.tensor(0.5)), dense(first, 4, 1))
    return dense(apply(Add(), dense(apply(MaxMin(), dense(second, 4, 2)), 4, 3), first), 3, 4)


def _late() -> Node:
    first = apply(Leaky(torch.tensor(-1.0)), dense(apply(Input((3,))), 4, 0))
    return dense(apply(Add(), first, apply(relu(), dense(first, 4, 1))), 3, 2)


def _concatenated() -> Node:
    image = apply(Input((3,)))
    first = apply(MaxMin(0, True, torch.tensor(0.4), torch.tensor(-0.4)), dense(image, 4, 0))
    return dense(apply(relu(), dense(apply(Concat(0), first, dense(image, 3, 1), image), 5, 2)), 3, 3)


def _smooth_between() -> Node:
    first = apply(Tanh(), dense(apply(relu(), dense(apply(Input((3,))), 5, 0)), 4, 1))
    return dense(apply(relu(), dense(first, 4, 2)), 3, 3)


def _ends_in_an_activation() -> Node:
    return apply(
        Clamp(torch.tensor(-0.2), torch.tensor(0.7)), dense(apply(relu(), dense(apply(Input((3,))), 5, 0)), 3, 1)
    )


def _linear() -> Node:
    return dense(apply(Input((3,))), 3, 0)


GRAPHS = {f.__name__: f for f in (_residual, _late, _concatenated, _smooth_between, _ends_in_an_activation, _linear)}


def policies(seed: int) -> tuple[Policy, ...]:
    return tightest, Silly(seed)


def least(program: Program, node: Node, rows: Tensor, image: Tensor, eps: float, seed: int, *, before: bool) -> Tensor:
    """The least values of rows that sampling and a gradient descent from the worst samples find, `[rows]`."""
    points = points_of(image, eps * (1 - 1e-9), 150, seed)
    objective = _objective(program, node, rows, points, before=before)
    best, start = objective.min(0)
    points = points[start].clone()
    for _ in range(15):
        with torch.enable_grad():
            moving = points.requires_grad_()
            found = _objective(program, node, rows, moving, before=before).diagonal()
            (gradient,) = torch.autograd.grad(found.sum(), moving, allow_unused=True)
        best = torch.minimum(best, found.detach())
        if gradient is None:
            break
        step = torch.nn.functional.normalize(gradient.flatten(1)).reshape(points.shape)
        moved = points.detach() - eps / 4 * step - image
        size = torch.linalg.vector_norm(moved.flatten(1), dim=1).clamp(min=1e-300)
        points = image + moved * (eps * (1 - 1e-9) / size).clamp(max=1).reshape(-1, *[1] * (image.ndim - 1))
    return best


def _objective(program: Program, node: Node, rows: Tensor, points: Tensor, *, before: bool) -> Tensor:
    values = values_of(program, points)[0 if before else 1][node]
    return values.flatten(1) @ rows.flatten(1).T


def check(network: Network, image: Tensor, eps: float, seed: int) -> None:
    program, trace = proved(network, image, eps, deployed=bool(seed % 2))
    backward = Backward(program)
    for index, block in enumerate(program.blocks):
        for before in (True, False):
            shape = block.pre.shape if before else block.node.shape
            rows = normal(1, ROWS, *shape, seed=seed + index)
            found = least(program, block.node, rows[0], image, eps, seed, before=before)
            for policy in policies(seed):
                for stops in (False, True):
                    bound = (
                        backward.of_pre_activation(trace, index, rows, policy, best_stop=stops)
                        if before
                        else backward(trace, {block.node: rows}, policy, best_stop=stops)
                    ).lower
                    assert bool((bound[0] <= found + 1e-13 * (1 + found.abs())).all()), (block.label, before, stops)


@torch.no_grad()
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.6])
def test_no_point_lies_below_the_bound(name: str, eps: float) -> None:
    network = Network(GRAPHS[name]())
    for seed in (0, 1, 2):
        image = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        check(network, image, eps, seed)


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS)
def test_no_point_lies_below_the_bound_on_random_graphs(seed: int) -> None:
    network = random_network(seed)
    check(network, random_image(network, seed), [0.02, 0.3][seed % 2], seed)


def fixture(name: str, eps: float = 0.3, seed: int = 0) -> tuple[Program, Trace, dict[Node, Tensor], Tensor]:
    network = Network(GRAPHS[name]())
    images = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    program, trace = proved(network, images, eps, deployed=False)
    return program, trace, {program.output: differences(torch.zeros(4, dtype=torch.int64), program)}, images


@torch.no_grad()
@pytest.mark.parametrize("name", GRAPHS)
def test_stopping_where_it_is_best_is_never_worse(name: str) -> None:
    program, trace, rows, _ = fixture(name)
    backward = Backward(program)
    best, down = (backward(trace, rows, tightest, best_stop=s).lower for s in (True, False))
    assert bool((best >= down).all())
    if program.blocks[-1].activation is None:
        last = backward.at_last_hidden(trace, rows[program.output]).lower
        assert bool((best >= last - 1e-12).all()), "the last hidden values are one of the stops"


@torch.no_grad()
def test_an_activation_without_relaxation_is_a_stop() -> None:
    program, trace, rows, _ = fixture("_smooth_between")
    choices = Backward(program)(trace, rows, tightest).linear.choices
    assert {key[0] for key in choices} == {2}, "the blocks behind Tanh are not reached"


@torch.no_grad()
@pytest.mark.parametrize("name", GRAPHS)
def test_the_pixel_range_never_hurts(name: str) -> None:
    program, trace, rows, images = fixture(name)
    other, clipped = proved(Network(GRAPHS[name]()), images, 0.3, deployed=False, clip=True)
    plain = Backward(program)(trace, rows, tightest).lower
    (own,) = rows.values()
    cut = Backward(other, clip=True)(clipped, {other.output: own}, tightest, best_stop=True).lower
    assert bool((cut >= plain - 1e-9).all())


@torch.no_grad()
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("paid", [False, True])
def test_an_ascent_returns_what_its_choices_give(name: str, paid: bool) -> None:
    program, trace, rows, _ = fixture(name)
    if not paid:
        trace = replace(trace, roundoff=None)
    first = Backward(program)(trace, rows, tightest)
    bound, choices = Ascent(steps=12)(Backward(program), trace, rows, first.linear.choices)
    assert bool((bound >= first.lower - 1e-6).all())
    torch.testing.assert_close(Backward(program)(trace, rows, fixed(choices)).lower, bound, rtol=0, atol=0)


@torch.no_grad()
def test_an_ascent_from_silly_choices_returns_what_its_choices_give() -> None:
    program, trace, rows, _ = fixture("_residual")
    for seed in range(5):
        start = Backward(program)(trace, rows, Silly(seed)).linear.choices
        bound, choices = Ascent(steps=6, rate=3.0, log_rate=5.0)(Backward(program), trace, rows, start)
        torch.testing.assert_close(Backward(program)(trace, rows, fixed(choices)).lower, bound, rtol=0, atol=0)


@torch.no_grad()
def test_rows_of_one_image_do_not_depend_on_the_batch() -> None:
    program, trace, rows, _ = fixture("_concatenated")
    together = Backward(program)(trace, rows, tightest, best_stop=True).lower
    for i in range(4):
        index = torch.tensor([i])
        alone = Backward(program)(trace.select(index), {n: r[index] for n, r in rows.items()}, tightest, best_stop=True)
        torch.testing.assert_close(alone.lower[0], together[i])


@torch.no_grad()
def test_paying_for_rounding_costs_little_and_something() -> None:
    program, trace, rows, _ = fixture("_residual")
    free = Backward(program)(replace(trace, roundoff=None), rows, tightest)
    assert not free.paid.any()
    paid = Backward(program)(trace, rows, tightest)
    assert bool((paid.lower < free.lower).all())
    assert bool((paid.lower > free.lower - 1e-10).all())
    torch.testing.assert_close(paid.lower + paid.paid, free.lower)


@torch.no_grad()
def test_what_evaluations_in_float32_err_is_not_told_as_rounding_of_the_pass() -> None:
    """A checker's pass rounds as much as this one: room for it need not hold what a float32 evaluation errs, too."""
    network = in_format(Network(_residual()), torch.float32)
    images = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float().double()
    found = {}
    for deployed in (False, True):
        program, trace = proved(network, images, 0.3, deployed=deployed)
        rows = {program.output: differences(torch.zeros(4, dtype=torch.int64), program)[:, 1:]}
        found[deployed] = Backward(program)(trace, rows, tightest)
    assert bool((found[True].paid > 0).all())
    assert bool((found[True].paid <= 1.1 * found[False].paid).all())
    assert bool((found[False].lower - found[True].lower > 100 * found[True].paid).all())


@torch.no_grad()
def test_nothing_known_bounds_nothing() -> None:
    for broken in (torch.nan, torch.inf):
        program, trace = proved(Network(_residual()), torch.full((1, 3), broken), 0.1, deployed=False)
        rows = {program.output: differences(torch.zeros(1, dtype=torch.int64), program)[:, 1:]}
        for stops in (False, True):
            assert not bool((Backward(program)(trace, rows, tightest, best_stop=stops).lower > -torch.inf).any())


@torch.no_grad()
@pytest.mark.parametrize("phi", [relu(), Leaky(torch.tensor(0.1)), MaxMin()])
def test_a_pass_to_the_image_is_exact_where_everything_is_settled(phi: Activation) -> None:
    """Far from all bends the network is linear on the ball, and the bound is the value minus eps times the slope."""
    weight = normal(4, 3, seed=0)
    hidden = apply(phi, apply(Linear(weight, torch.tensor([50.0, 70.0, 10.0, 30.0])), apply(Input((3,)))))
    program, trace = proved(Network(apply(Linear(torch.eye(4)), hidden)), torch.full((1, 3), 0.5), 0.1, deployed=False)
    rows = normal(1, ROWS, 4, seed=1)
    bound = Backward(program)(trace, {program.output: rows}, tightest).lower
    expected = _objective(program, program.output, rows[0], torch.full((1, 3), 0.5, dtype=torch.float64), before=False)
    jacobian = torch.autograd.functional.jacobian(program.logits, torch.full((1, 3), 0.5, dtype=torch.float64))
    size = torch.linalg.vector_norm(rows[0] @ jacobian.reshape(4, 3), dim=1)
    torch.testing.assert_close(bound[0], expected[0] - 0.1 * size)
