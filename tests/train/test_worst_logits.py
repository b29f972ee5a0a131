"""Worst logits of a training step, against their definition and against points of the ball."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from objectives import (
    METHODS,
    RADIUS,
    Subject,
    drawn,
    found_by_search,
)
from torch import Tensor
from toys import TOYS, toy, toy_batch

from llcert.ops import Clamp, Linear, MaxMin
from llcert.program import lower
from llcert_train.settings import Loss, Recipe
from llcert_train.weights import Weights

ALONE = ("product", "liplt")
"""Bounds of pairs of logits with which no box is propagated."""


@pytest.mark.parametrize("name", TOYS)
def test_no_point_of_the_ball_passes_the_worst_logits(name: str) -> None:
    s = drawn(name)
    seen = found_by_search(s, RADIUS)
    assert (seen > 0).any(), "no image can be attacked: the test says little"
    for words, recipe in METHODS.items():
        logits, worst = s.seen(**recipe)
        assert torch.equal(logits, s.program.logits(s.images)), words
        allowed = worst - worst.gather(1, s.labels[:, None])
        assert (seen <= allowed + 1e-7 * (1 + allowed.abs())).all(), words


@pytest.mark.parametrize(("name", "radius"), [("dense ReLU-theta", 0.03), ("conv clipped MaxMin", 0.8)])
def test_two_hundred_iterations_from_random_starts_do_as_well(name: str, radius: float) -> None:
    network = toy(name, 1)
    weights = Weights.of(network, "cpu")
    program = lower(weights.network, dtype=torch.float64)
    s = Subject(weights, program, *toy_batch(network, 2, 1), {}, {})
    seen = found_by_search(s, radius)
    for recipe in METHODS.values():
        _, worst = s.seen(radius, **{**recipe, "iterations": 200})
        allowed = worst - worst.gather(1, s.labels[:, None])
        assert (seen <= allowed + 1e-4 * (1 + allowed.abs())).all()


@dataclass(frozen=True)
class Layer:
    """A hidden value: its centre, box and ball, which entries vary, and its Lipschitz constant."""

    centre: Tensor
    lower: Tensor
    upper: Tensor
    radius: float
    varying: Tensor
    growth: float


def spectral(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2)) if matrix.numel() else 0.0


def kept_and_varying(op: Clamp | MaxMin, lower: Tensor, upper: Tensor) -> tuple[list[bool], list[bool]]:
    """Which rows of the map in front count, and which outputs vary, by the words of section 3."""
    if isinstance(op, Clamp):
        assert op.high is not None
        varies = [bool(u > 0 and low < t) for low, u, t in zip(lower, upper, op.high, strict=True)]
        return varies, varies
    assert op.high is not None
    assert op.low is not None
    half = len(lower) // 2
    rows, outputs = [False] * len(lower), [False] * len(lower)
    for i, j in zip(range(half), range(half, 2 * half), strict=True):
        outputs[i] = not bool(max(lower[i], lower[j]) >= op.high[i])
        outputs[j] = not bool(min(upper[i], upper[j]) <= op.low[i])
        if lower[i] >= upper[j]:
            rows[i], rows[j] = outputs[i], outputs[j]
        elif lower[j] >= upper[i]:
            rows[j], rows[i] = outputs[i], outputs[j]
        else:
            rows[i] = rows[j] = outputs[i] or outputs[j]
    return rows, outputs


@torch.no_grad()
def hidden_layer(first: Linear, op: Clamp | MaxMin, x: Tensor, radius: float, balls: str) -> Layer:
    """Sections 2 and 3 for one image. balls: local, global or box."""
    W, b = first.weight.detach(), first.bias.detach()  # type: ignore[union-attr]
    z = W @ x + b
    reach = radius * torch.linalg.vector_norm(W, dim=1)
    lower, upper = z - reach, z + reach
    rows, outputs = kept_and_varying(op, lower, upper)
    growth = {"local": spectral(W[rows]), "global": spectral(W), "box": float("inf")}[balls]
    centre, low, high = (op(v[None])[0] for v in (z, lower, upper))
    low, high = torch.maximum(low, centre - growth * radius), torch.minimum(high, centre + growth * radius)
    corner = float(torch.linalg.vector_norm(torch.maximum(high - centre, centre - low)))
    return Layer(centre, low, high, min(growth * radius, corner), torch.tensor(outputs), growth)


def farthest(d: Tensor, down: Tensor, up: Tensor, radius: float) -> float:
    """`max d . delta` over box and ball by bisection on the multiplier."""
    corner = torch.where(d > 0, up, down)
    if torch.linalg.vector_norm(corner) <= radius:
        return float(d @ corner)
    low, high = 1e-12, float(torch.linalg.vector_norm(d)) / radius + 1e-12
    for _ in range(200):
        middle = (low * high) ** 0.5
        point = torch.minimum(torch.maximum(d / middle, down), up)
        low, high = (middle, high) if torch.linalg.vector_norm(point) > radius else (low, middle)
    return float(d @ torch.minimum(torch.maximum(d / high, down), up))


def expected_increase(first: Linear, op: Clamp | MaxMin, last: Linear, x: Tensor, y: int, recipe: Recipe) -> Tensor:
    """How much each `z_j - z_y` may grow, `[classes]`, by the definition of the recipe's loss."""
    all_over = dict.fromkeys(("lmt", "gloro", "bcp", "pairwise", "crm"), "global")
    balls = str(recipe.ball or {**all_over, "ibp": "box"}.get(recipe.loss, "local"))
    W = last.weight.detach()
    if balls == "liplt" and isinstance(op, Clamp):  # half of each entry passes, half of it is a remainder
        d, V = (W - W[y]) / 2, first.weight.detach()
        return RADIUS * (torch.linalg.vector_norm(d @ V, dim=1) + torch.linalg.vector_norm(d, dim=1) * spectral(V))
    ball_alone = recipe.loss in (Loss.GLORO, Loss.LOCAL_LIP_G, Loss.PAIRWISE, Loss.CRM) or balls in ALONE
    balls = "global" if balls in ALONE else balls
    h = hidden_layer(first, op, x, RADIUS, balls)
    masked = W * h.varying
    d = W - W[y]
    if recipe.loss is Loss.LMT:
        return 2**0.5 * RADIUS * h.growth * spectral(masked if balls == "local" else W) * torch.ones(len(W))
    if ball_alone:
        ball_only = torch.linalg.vector_norm(d * h.varying if balls == "local" else d, dim=1)
        return ball_only * (h.radius if balls == "local" else h.growth * RADIUS)
    down, up = torch.where(h.varying, h.lower - h.centre, 0), torch.where(h.varying, h.upper - h.centre, 0)
    return torch.tensor([farthest(row * h.varying, down, up, h.radius) for row in d])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["one hidden ReLU-theta", "one hidden clipped MaxMin"])
def test_worst_logits_are_the_definition_of_the_method(name: str, seed: int) -> None:
    s = drawn(name, seed)
    first, op, last = (node.op for node in s.weights.network.operators())
    assert isinstance(first, Linear)
    assert isinstance(op, Clamp | MaxMin)
    assert isinstance(last, Linear)
    for words, recipe in METHODS.items():
        logits, worst = s.seen(**recipe)
        for i, (x, y) in enumerate(zip(s.images, s.labels.tolist(), strict=True)):
            increase = expected_increase(first, op, last, x, y, Recipe(**recipe)).to(logits)
            increase[y] = 0
            torch.testing.assert_close(worst[i], logits[i] + increase, rtol=1e-5, atol=1e-7, msg=words)


@pytest.mark.parametrize("seed", range(3))
def test_worst_logits_of_a_linear_network(seed: int) -> None:
    """Exact but for LMT; interval bounds take the box around the ball."""
    s = drawn("linear", seed)
    (node,) = s.weights.network.operators()
    assert isinstance(node.op, Linear)
    W = node.op.weight.detach()
    for words, recipe in METHODS.items():
        logits, worst = s.seen(**recipe)
        d = W[None] - W[s.labels][:, None]
        increase = RADIUS * torch.linalg.vector_norm(d, dim=2)
        if recipe["loss"] is Loss.LMT:
            increase = 2**0.5 * RADIUS * spectral(W) * F.one_hot(s.labels, len(W)).logical_not()
        torch.testing.assert_close(worst, logits + increase, msg=words)
