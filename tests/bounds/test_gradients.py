"""Gradients through the bounds: finite wherever something vanishes, and those of finite differences elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from drawing import normal
from torch import Tensor

from llcert import ops
from llcert.bounds import (
    Balls,
    EstimatedArithmetic,
    LastLayer,
    RowWeighting,
    global_bound,
    gloro_margins,
    lmt_margins,
    propagate,
    worst_margins,
)
from llcert.domain.region import ball
from llcert.ir import Input, LinearOp, Network, Node, Op, Shape, apply
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    ConvTranspose,
    Leaky,
    Linear,
    MaxMin,
    Reshape,
    Sigmoid,
    SumPool,
    Tanh,
    Transpose,
    relu,
)
from llcert.program import Program, lower
from llcert_train.norms import FewIterations

CLASSES = 3


def leaf(x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return x.detach().to(dtype).clone().requires_grad_()


def others(labels: Tensor, count: int) -> Tensor:
    return torch.arange(count) != labels[:, None]


def margins(
    program: Program, images: Tensor, labels: Tensor, eps: float, balls: Balls, solver: FewIterations, *, joint: bool
) -> dict[str, Tensor]:
    """The margins of all wrong classes by each way there is to bound them, `[batch * (classes - 1)]`."""
    bound = None if balls is Balls.BOX else global_bound(program, solver, joint=joint)
    trace = propagate(
        program,
        ball(images, eps),
        EstimatedArithmetic(bound, balls=balls, solver=solver, joint=joint),
        weighting=RowWeighting.SLOPE,
    )
    logits, last = trace.post_activation[program.output].region.centre, LastLayer.of(program)
    found = {
        "box and ball": worst_margins(logits, labels, last, trace.post_activation),
        "ball": gloro_margins(logits, labels, last, trace.post_activation),
    }
    if trace.logit_lipschitz is not None:
        found["logits"] = lmt_margins(logits, labels, trace.logit_lipschitz * eps)
    return {name: values[others(labels, logits.shape[1])] for name, values in found.items()}


Weights = Mapping[str, Tensor]
Build = Callable[[Weights], Node]


@dataclass(frozen=True)
class Architecture:
    """Shapes of weights, and the logits made of them."""

    image: Shape
    shapes: Mapping[str, Shape]
    build: Build

    def drawn(self, seed: int = 0) -> dict[str, Tensor]:
        numbered = enumerate(self.shapes.items())
        return {name: normal(*shape, seed=seed + i) / max(shape[-1], 1) ** 0.5 for i, (name, shape) in numbered}


def _dense(first: Callable[[Weights], Op], second: Callable[[Weights], Op]) -> Architecture:
    def build(w: Weights) -> Node:
        node = apply(first(w), apply(Linear(w["w1"], w["b1"]), apply(Input((3,)))))
        node = apply(second(w), apply(Linear(w["w2"], w["b2"]), node))
        return apply(Linear(w["w3"], w["b3"]), node)

    shapes = {"w1": (4, 3), "b1": (4,), "w2": (4, 4), "b2": (4,), "w3": (CLASSES, 4), "b3": (CLASSES,)}
    return Architecture((3,), {**shapes, "t1": (4,), "t2": (4,), "high": (2,), "low": (2,)}, build)


def _theta(name: str) -> Callable[[Weights], Op]:
    return lambda w: Clamp(torch.zeros((), dtype=w[name].dtype), 4 * w[name].abs())


def _clipped(w: Weights) -> Op:
    return MaxMin(0, False, w["high"].abs(), -w["low"].abs())


def _residual(w: Weights) -> Node:
    image = apply(Input((2, 4, 4)))
    scaled = apply(Affine(w["scale"], w["shift"]), image)
    start = apply(relu(), apply(Conv(w["c1"], w["b1"], (1, 1), (1, 1)), scaled))
    norm = BatchNorm(w["gain"], w["bias"], torch.ones_like(w["bias"]), torch.ones_like(w["bias"]))
    inner = apply(norm, apply(Conv(w["c2"], None, (1, 1), (1, 1)), start))
    joined = apply(Clamp(torch.zeros((), dtype=w["t"].dtype), w["t"].abs()), apply(Add(), inner, start))
    beside = apply(Concat(0), apply(SumPool((2, 2), (2, 2), 0.25), joined), apply(SumPool((2, 2), (2, 2), 0.25), image))
    mixed = apply(MaxMin(0, True), apply(Conv(w["c3"], None), beside))
    return apply(Linear(w["w"], None), apply(Reshape((8,)), mixed))


RESIDUAL = Architecture(
    (2, 4, 4),
    {
        "scale": (2, 1, 1),
        "shift": (2, 1, 1),
        "c1": (2, 2, 3, 3),
        "b1": (2,),
        "c2": (2, 2, 3, 3),
        "gain": (2,),
        "bias": (2,),
        "t": (2, 4, 4),
        "c3": (2, 4, 1, 1),
        "w": (CLASSES, 8),
    },
    _residual,
)

ARCHITECTURES: dict[str, Architecture] = {
    "relu": _dense(lambda w: relu(), lambda w: relu()),
    "relu-theta": _dense(_theta("t1"), _theta("t2")),
    "maxmin": _dense(lambda w: MaxMin(), lambda w: MaxMin(0, True)),
    "clipped maxmin": _dense(_clipped, _clipped),
    "leaky": _dense(lambda w: Leaky(w["t1"]), lambda w: Leaky(torch.full((), -1.0, dtype=w["t1"].dtype))),
    "smooth": _dense(lambda w: Tanh(), lambda w: Sigmoid()),
    "ends in an activation": dataclasses.replace(
        _dense(_theta("t1"), _theta("t2")),
        build=lambda w: apply(Tanh(), _dense(_theta("t1"), _theta("t2")).build(w)),
    ),
    "ends in a relu": dataclasses.replace(
        _dense(_theta("t1"), _theta("t2")),
        build=lambda w: apply(relu(), _dense(_theta("t1"), _theta("t2")).build(w)),
    ),
    "residual": RESIDUAL,
}


def _filled(value: float, *names: str) -> Callable[[dict[str, Tensor]], None]:
    """Some weights set to one value; all where none is named."""

    def change(w: dict[str, Tensor]) -> None:
        for name in names or w:
            if name in w:
                w[name].fill_(value)

    return change


def _zero_rows(w: dict[str, Tensor]) -> None:
    for tensor in w.values():
        tensor[0] = 0.0


def _zero_columns(w: dict[str, Tensor]) -> None:
    for tensor in w.values():
        if tensor.ndim > 1:
            tensor[:, 0] = 0.0


def _equal_rows(w: dict[str, Tensor]) -> None:
    """Every tie there can be: rows, thresholds and classes alike."""
    for tensor in w.values():
        tensor[:] = tensor[:1].clone()


DEGENERATE: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "nothing": lambda w: None,
    "first layer off": _filled(-100.0, "b1"),
    "second layer off": _filled(-100.0, "b2", "bias"),
    "first layer saturated": _filled(100.0, "b1"),
    "second layer saturated": _filled(100.0, "b2", "bias"),
    "thresholds at zero": _filled(0.0, "t1", "t2", "t", "high", "low"),
    "no weights": _filled(0.0),
    "no first layer": _filled(0.0, "w1", "c1"),
    "no second layer": _filled(0.0, "w2", "c2", "gain"),
    "no last layer": _filled(0.0, "w3", "w"),
    "no biases": _filled(0.0, "b1", "b2", "b3", "bias", "shift"),
    "zero rows": _zero_rows,
    "zero columns": _zero_columns,
    "ties": _equal_rows,
    "tiny weights": lambda w: [t.mul_(1e-15) for t in w.values()] and None,
}


@pytest.mark.parametrize("balls", Balls)
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_finite_where_something_vanishes(name: str, case: str, balls: Balls) -> None:
    """In single precision, as training runs; the first image is black."""
    architecture = ARCHITECTURES[name]
    drawn = architecture.drawn()
    DEGENERATE[case](drawn)
    images = normal(3, *architecture.image, seed=30).float().abs()
    images[0] = 0.0
    labels = torch.tensor([0, 1, 2])
    for eps, joint in ((0.3, name == "residual"), (0.3, False), (1e-30, False))[name != "residual" :]:
        weights = {k: leaf(t, torch.float32) for k, t in drawn.items()}
        program = lower(Network(architecture.build(weights)))
        found = margins(program, images, labels, eps, balls, FewIterations(2), joint=joint)
        for kind, values in found.items():
            assert values.isfinite().all(), (kind, eps)
        gradients = torch.autograd.grad(torch.stack(list(found.values())).sum(), weights.values(), allow_unused=True)
        for own, gradient in zip(weights, gradients, strict=True):
            assert gradient is None or gradient.isfinite().all(), (own, eps)


GENERIC = ["relu", "relu-theta", "maxmin", "clipped maxmin", "leaky", "smooth"]
"""Near a generic point masks do not depend on the weights, and slopes of leaky and smooth functions are followed."""


def generic(name: str) -> tuple[Architecture, dict[str, Tensor], Tensor, Tensor]:
    """Weights with a norm well above the next singular value, images and labels; nothing at a kink, some constant."""
    architecture = ARCHITECTURES[name]
    drawn = architecture.drawn(seed=160)
    for number, own in enumerate(("w1", "w2", "w3")):
        rows, columns = drawn[own].shape
        outer = torch.outer(normal(rows, seed=170 + number), normal(columns, seed=180 + number))
        drawn[own] += 3 * outer / (rows * columns) ** 0.5
    return architecture, drawn, normal(2, *architecture.image, seed=190).abs(), torch.tensor([0, 2])


@pytest.mark.parametrize("balls", Balls)
@pytest.mark.parametrize("name", GENERIC)
def test_those_of_finite_differences(name: str, balls: Balls) -> None:
    """Of every margin, by every weight, bias and threshold and by the image, along random directions; norms have
    converged."""
    architecture, drawn, images, labels = generic(name)
    used = {k: t for k, t in drawn.items() if _reads(architecture, drawn, k)}

    def function(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        weights = {**drawn, **dict(zip(used, values, strict=True))}
        program = lower(Network(architecture.build(weights)), dtype=torch.float64)
        return tuple(margins(program, x, labels, 0.15, balls, FewIterations(40), joint=False).values())

    inputs = leaf(images), *(leaf(t) for t in used.values())
    assert torch.autograd.gradcheck(function, inputs, atol=1e-5, rtol=1e-3, fast_mode=True)


def _reads(architecture: Architecture, drawn: Weights, name: str) -> bool:
    """Whether the architecture has that weight in it."""
    weight = drawn[name].detach().clone().requires_grad_()
    output = Network(architecture.build({**drawn, name: weight}))
    return any(t.requires_grad for n in output.operators() for t in n.op.tensors().values())


@dataclass(frozen=True)
class Layers:
    """A network of two hidden layers of ReLU-theta, its bounds written out once more, norms by SVD."""

    w: Weights
    eps: float

    def phi(self, z: Tensor, name: str) -> Tensor:
        return torch.minimum(z.clamp(min=0), 4 * self.w[name].abs())

    def hidden(self, x: Tensor, *, balls: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Centre, lower and upper bounds and radius of the last hidden value, and which of its entries vary."""
        radius = growth = torch.full((len(x),), self.eps, dtype=torch.float64)
        centre, lower, upper = x, x - self.eps, x + self.eps
        moves = torch.ones_like(x, dtype=torch.bool)
        for w, b, t in (("w1", "b1", "t1"), ("w2", "b2", "t2")):
            W, bias = self.w[w], self.w[b]
            c = centre @ W.T + bias
            middle, half = (lower + upper) / 2 @ W.T + bias, (upper - lower) / 2 @ W.abs().T
            rows = (W[None] * moves[:, None]).norm(dim=-1) * radius[:, None]
            low, high = torch.maximum(middle - half, c - rows), torch.minimum(middle + half, c + rows)
            moves = (high > 0) & (low < 4 * self.w[t].abs())
            centre, lower, upper = self.phi(c, t), self.phi(low, t), self.phi(high, t)
            if balls:
                radius = growth = growth * torch.linalg.matrix_norm(W, 2)
                lower = torch.maximum(lower, centre - radius[:, None])
                upper = torch.minimum(upper, centre + radius[:, None])
                radius = torch.minimum(radius, torch.maximum(upper - centre, centre - lower).norm(dim=1))
            else:
                radius = torch.maximum(upper - centre, centre - lower).norm(dim=1)
        return centre, lower, upper, radius, moves

    def margins(self, x: Tensor, labels: Tensor, *, balls: bool, box: bool) -> Tensor:
        """Of the wrong classes: by the farthest corner of the box, or by the ball of what varies."""
        centre, lower, upper, radius, moves = self.hidden(x, balls=balls)
        logits = centre @ self.w["w3"].T + self.w["b3"]
        d = self.w["w3"][None] - self.w["w3"][labels][:, None]
        worst = torch.maximum(d * (upper - centre)[:, None], d * (lower - centre)[:, None]).sum(-1)
        by_ball = (d * moves[:, None]).norm(dim=-1) * radius[:, None]
        found = logits.gather(1, labels[:, None]) - logits - (worst if box else by_ball)
        return found[others(labels, CLASSES)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("balls", "kind"), [(Balls.BOX, "box and ball"), (Balls.BOX, "ball"), (Balls.GLOBAL, "ball")])
def test_those_of_the_bounds_written_out(balls: Balls, kind: str, seed: int) -> None:
    """Values and gradients; under boxes alone the ball holds the farthest corner and takes nothing away."""
    drawn = {k: t for k, t in ARCHITECTURES["relu-theta"].drawn(seed).items() if k not in ("high", "low")}
    images, labels = normal(4, 3, seed=seed + 30).abs(), torch.tensor([0, 1, 2, 0])
    ours, theirs = ({k: leaf(t) for k, t in drawn.items()} for _ in range(2))
    program = lower(Network(ARCHITECTURES["relu-theta"].build(ours)), dtype=torch.float64)
    found = margins(program, images, labels, 0.2, balls, FewIterations(1500), joint=False)[kind]
    written = Layers(theirs, 0.2)
    expected = written.margins(images, labels, balls=balls is Balls.GLOBAL, box=kind == "box and ball")
    torch.testing.assert_close(found, expected)
    weights = normal(*found.shape, seed=seed)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for name in drawn:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, atol=1e-6, rtol=1e-5)


TRAINABLE: dict[str, tuple[LinearOp, Shape]] = {
    "affine": (Affine(normal(3, 1, 1), normal(3, 4, 5)), (3, 4, 5)),
    "affine of columns": (Affine(normal(5), normal(5)), (2, 5)),
    "batch norm": (BatchNorm(normal(3), normal(3), normal(3), normal(3).square() + 0.1), (3, 3, 2)),
    "linear": (Linear(normal(3, 5), normal(3)), (5,)),
    "linear of rows": (Linear(normal(3, 5)), (2, 5)),
    "conv": (Conv(normal(4, 3, 3, 3), normal(4), (1, 1), (1, 1)), (3, 4, 4)),
    "conv strided, columns unread": (Conv(normal(2, 1, 2, 2), None, (3, 3)), (1, 7, 6)),
    "conv of groups": (Conv(normal(4, 2, 3, 3), None, (2, 1), (1, 1), (1, 2), 2), (4, 5, 5)),
    "conv 1d": (Conv(normal(4, 3, 3), normal(4), (2,), (2,), (2,)), (3, 8)),
    "conv transpose": (ConvTranspose(normal(3, 4, 3, 3), normal(4), (2, 2), (1, 1), (1, 0)), (3, 3, 4)),
    "conv transpose 1d": (ConvTranspose(normal(3, 4, 3), None, (1,), (0,), (2,), (3,)), (3, 5)),
}


def test_every_trainable_operator_stands_here() -> None:
    exported = (getattr(ops, name) for name in ops.__all__)
    found = {o for o in exported if isinstance(o, type) and issubclass(o, Op) and o.trainable}
    assert found == {type(op) for op, _ in TRAINABLE.values()}


@pytest.mark.parametrize("name", TRAINABLE)
class TestAdjoints:
    """`LastLayer.of` reads weights off a program by adjoints; their gradients are how the last layer learns."""

    def fields(self, op: LinearOp) -> dict[str, Tensor]:
        return {k: t for k, t in op.tensors().items() if k in op.trainable}

    def test_differentiable_in_weights_and_argument(self, name: str) -> None:
        op, shape = TRAINABLE[name]
        fields = self.fields(op)
        y = normal(2, *op(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:], seed=5)

        def function(argument: Tensor, *values: Tensor) -> Tensor:
            moved = dataclasses.replace(op, **dict(zip(fields, values, strict=True)))
            return moved.adjoint(argument, shape)

        assert torch.autograd.gradcheck(function, (leaf(y), *(leaf(t) for t in fields.values())))
        factors = {k: t for k, t in fields.items() if k in ("weight", "scale")}
        assert factors, "an operator is trained by a factor"
        moved = dataclasses.replace(op, **{k: leaf(t) for k, t in fields.items()})
        found = moved.adjoint(y, shape)  # as of unit vectors: no gradient by the argument
        (gradient,) = torch.autograd.grad(found.square().sum(), [getattr(moved, k) for k in factors])
        assert gradient.any()

    def test_same_gradient_as_the_map_itself(self, name: str) -> None:
        """`y . A x = A* y . x`, so both sides must pull a weight alike."""
        op, shape = TRAINABLE[name]
        x = normal(2, *shape, seed=6)
        y = normal(*op(x).shape, seed=7)
        sides = []
        for side in ("map", "adjoint"):
            moved = dataclasses.replace(op, **{k: leaf(t) for k, t in self.fields(op).items()})
            product = (y * moved.linear(x)) if side == "map" else (moved.adjoint(y, shape) * x)
            factor = moved.scale if isinstance(moved, Affine) else moved.weight  # type: ignore[attr-defined]
            sides.append(torch.autograd.grad(product.sum(), factor)[0])
        torch.testing.assert_close(*sides)


def test_rows_of_a_folded_last_layer_are_differentiable() -> None:
    """Through operators with weights and, between them, one whose adjoint is derived by autograd."""

    def rows(c: Tensor, gain: Tensor, scale: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        hidden = apply(relu(), apply(Linear(torch.eye(4, dtype=torch.float64)), apply(Input((1, 4, 4)))))
        norm = BatchNorm(gain, gain, gain.detach(), torch.ones_like(gain).detach())
        node = apply(norm, apply(Conv(c, None, (1, 1), (1, 1)), hidden))
        pooled = apply(Transpose((0, 2, 1)), apply(SumPool((2, 2), (2, 2), 0.25), node))
        node = apply(Affine(scale), apply(Reshape((8,)), pooled))
        program = lower(Network(apply(Linear(w), node)), dtype=torch.float64)
        return tuple(LastLayer.of(program).rows.values())

    tensors = normal(2, 1, 3, 3), normal(2, seed=1), normal(8, seed=2), normal(3, 8, seed=3)
    assert torch.autograd.gradcheck(rows, tuple(leaf(t) for t in tensors))
