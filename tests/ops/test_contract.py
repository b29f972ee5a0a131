"""What every operator owes to the bounds built on it, checked on samples, dense matrices and derivatives."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import measured
import numpy as np
import pytest
import torch
from drawing import Draw, number
from random_layers import exact
from torch import Tensor

from llcert import ops
from llcert.domain.region import Region
from llcert.ir import Activation, Join, LinearOp, Op, Shape, stated_roundings
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Cast,
    Clamp,
    Concat,
    Conv,
    ConvTranspose,
    Divide,
    Expand,
    GroupSort,
    Leaky,
    Linear,
    MaxMin,
    MaxPool,
    Pad,
    Reduce,
    Reshape,
    Sigmoid,
    SumPool,
    Take,
    Tanh,
    Transpose,
    relu,
)

draw = Draw(0)
generator, normal, positive = draw.generator, draw.normal, partial(draw.positive, least=0.1)


LINEAR: dict[str, tuple[LinearOp, Shape]] = {
    "affine": (Affine(normal(3, 1, 1), normal(3, 4, 5)), (3, 4, 5)),
    "affine scale": (Affine(number(-2.0)), (4,)),
    "affine shift": (Affine(shift=normal(4)), (4,)),
    "affine nothing": (Affine(), (4,)),
    "divide": (Divide(positive(3, 1, 1) * torch.tensor([1, -1, 1], dtype=torch.float64).reshape(3, 1, 1)), (3, 4, 5)),
    "divide by one number": (Divide(number(3.0)), (4,)),
    "cast": (Cast(torch.float32), (3, 4)),
    "batch norm": (BatchNorm(normal(3), normal(3), normal(3), positive(3)), (3, 4, 2)),
    "batch norm flat": (BatchNorm(normal(3), normal(3), normal(3), positive(3), spatial=0), (3,)),
    "linear": (Linear(normal(3, 5), normal(3)), (5,)),
    "linear rows": (Linear(normal(3, 5)), (2, 5)),
    "conv": (Conv(normal(4, 3, 3, 3), normal(4), (1, 1), (1, 1), (1, 1)), (3, 5, 4)),
    "conv strided": (Conv(normal(4, 3, 3, 2), None, (2, 3), (1, 0), (1, 2)), (3, 6, 8)),
    "conv strided, columns unread": (Conv(normal(2, 1, 2, 2), None, (3, 3), (0, 0), (1, 1)), (1, 7, 6)),
    "conv grouped": (Conv(normal(4, 2, 3, 3), normal(4), (1, 1), (2, 1), (1, 1), 2), (4, 5, 4)),
    "conv 1d": (Conv(normal(4, 3, 3), normal(4), (2,), (2,), (2,)), (3, 8)),
    "conv transpose": (ConvTranspose(normal(3, 4, 3, 3), normal(4), (2, 2), (1, 1), (1, 0)), (3, 3, 4)),
    "conv transpose grouped": (
        ConvTranspose(normal(4, 2, 3, 2), None, (1, 2), (0, 1), (1, 0), (2, 1), 2),
        (4, 3, 4),
    ),
    "conv transpose 1d": (ConvTranspose(normal(3, 4, 3), normal(4), (1,), (0,), (2,), (3,)), (3, 5)),
    "reshape": (Reshape((6, 2)), (3, 4)),
    "transpose": (Transpose((2, 0, 1)), (3, 4, 2)),
    "take slice": (Take(1, (1, 3)), (3, 5)),
    "take backwards": (Take(0, (2, 1, 0)), (3, 5)),
    "take repeated": (Take(1, (4, 0, 4, 4)), (3, 5)),
    "take one": (Take(0, (2,)), (3, 5)),
    "pad": (Pad(((0, 1), (2, 0)), -0.5), (3, 4)),
    "expand": (Expand((2, 3, 4)), (1, 4)),
    "expand scalar": (Expand((3,)), ()),
    "reduce": (Reduce((0, 2), 0.25), (3, 4, 2)),
    "reduce negative": (Reduce((1,), -2.0), (3, 4)),
    "sum pool": (SumPool((3, 2), (2, 1), 0.3), (2, 6, 5)),
    "sum pool overlapping": (SumPool((3,), (1,), -1.0), (2, 6)),
}

JOINS: dict[str, tuple[Join, tuple[Shape, ...]]] = {
    "add": (Add(), ((3, 2), (3, 2), (3, 2))),
    "concat": (Concat(1), ((3, 2), (3, 4))),
}

ACTIVATIONS: dict[str, tuple[Activation, Shape]] = {
    "relu": (relu(), (4, 3)),
    "relu-theta": (Clamp(number(0.0), positive(4, 1)), (4, 3)),
    "clamp": (Clamp(number(-0.4), normal(3).abs()), (4, 3)),
    "clamp below": (Clamp(high=normal(4, 3)), (4, 3)),
    "clamp contradicting": (Clamp(number(0.5), normal(4, 3)), (4, 3)),
    "clamp shut": (Clamp(number(0.5), number(0.5)), (4,)),
    "clamp infinite": (Clamp(number(0.0), torch.tensor([0.5, torch.inf], dtype=torch.float64)), (4, 2)),
    "leaky": (Leaky(number(0.1)), (4, 3)),
    "prelu": (Leaky(normal(4, 1) * 1.5), (4, 3)),
    "abs": (Leaky(number(-1.0)), (4, 3)),
    "leaky zero": (Leaky(number(0.0)), (4, 3)),
    "leaky steep": (Leaky(number(-3.0)), (4, 3)),
    "maxmin": (MaxMin(0), (4, 3)),
    "maxmin pairs": (MaxMin(1, True), (3, 4)),
    "maxmin clipped": (MaxMin(0, False, positive(2, 3), -positive(3)), (4, 3)),
    "maxmin clipped pairs": (MaxMin(1, True, number(0.3), normal(3, 2)), (3, 4)),
    "maxmin half clipped": (MaxMin(0, False, normal(2, 1)), (4, 3)),
    "maxmin crossing thresholds": (MaxMin(0, False, number(-0.5), number(0.5)), (4, 3)),
    "groupsort": (GroupSort(0, 3), (6, 2)),
    "groupsort descending": (GroupSort(1, 4, True), (2, 4)),
    "max pool": (MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (2, 4, 5)),
    "max pool overlapping": (MaxPool((3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)), (1, 5, 4)),
    "max pool padded": (MaxPool((3, 3), (2, 2), ((1, 1), (1, 2)), (1, 1)), (2, 5, 4)),
    "max pool dilated": (MaxPool((2,), (1,), ((1, 0),), (2,)), (2, 7)),
    "sigmoid": (Sigmoid(), (4, 3)),
    "tanh": (Tanh(), (4, 3)),
}


def test_every_operator_stands_here() -> None:
    here = {type(op) for table in (LINEAR, JOINS, ACTIVATIONS) for op, _ in table.values()}  # type: ignore[attr-defined]
    exported = {getattr(ops, name) for name in ops.__all__}
    assert {o for o in exported if isinstance(o, type) and issubclass(o, LinearOp | Join | Activation)} == here


def matrix(function: Callable[[Tensor], Tensor], shape: Shape) -> Tensor:
    """A linear map `[batch, *shape] -> [batch, ...]` as a dense matrix."""
    size = torch.Size(shape).numel()
    return function(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, -1).T


@pytest.mark.parametrize("name", LINEAR)
class TestLinear:
    def test_affine(self, name: str) -> None:
        op, shape = LINEAR[name]
        x, zero = normal(3, *shape), torch.zeros(3, *shape, dtype=torch.float64)
        torch.testing.assert_close(op(x), op.linear(x) + op(zero))

    def test_adjoint(self, name: str) -> None:
        op, shape = LINEAR[name]
        y = normal(*op.linear(normal(3, *shape)).shape)
        torch.testing.assert_close(op.adjoint(y, shape), LinearOp.adjoint(op, y, shape))
        torch.testing.assert_close(
            matrix(lambda v: op.adjoint(v, shape), tuple(y.shape[1:])), matrix(op.linear, shape).T
        )

    def test_norm_bound(self, name: str) -> None:
        op, shape = LINEAR[name]
        truth = float(torch.linalg.matrix_norm(matrix(op.linear, shape), 2))
        assert op.norm_bound(shape) >= truth * (1 - 1e-14)

    def test_a_row_is_rounded_as_often_as_it_has_entries_and_as_is_stated_of_a_product(self, name: str) -> None:
        op, shape = LINEAR[name]
        entries, x = exact(op, shape), normal(1, *shape)
        wrong = np.abs(op.linear(x).flatten().numpy() - entries @ x.flatten().numpy())
        size = np.abs(entries) @ np.abs(x.flatten().numpy())
        assert (wrong <= ((entries != 0).sum(1) + stated_roundings(op)) * 2.0**-53 * size).all()

    def test_statements(self, name: str) -> None:
        op, shape = LINEAR[name]
        assert op.unstated == ()
        measured.linear_map_rounds_as_stated(op, shape)
        measured.coefficients_change_as_stated(op, shape)
        measured.entries_move_as_stated(op, shape)
        measured.entries_stay_apart_as_stated(op, shape)

    def test_onnxruntime_keeps_them(self, name: str) -> None:
        op, shape = LINEAR[name]
        if isinstance(op, ConvTranspose) and any(e >= s for e, s in zip(op.output_padding, op.stride, strict=True)):
            pytest.skip("onnxruntime takes no output padding as large as the stride")
        measured.runtime_rounds_as_stated(op, shape)

    def test_box(self, name: str) -> None:
        op, shape = LINEAR[name]
        centre, half = normal(2, *shape), positive(2, *shape)
        reach = op.transformed(torch.abs).linear(half)
        for _ in range(20):
            x = centre + half * (2 * torch.rand(2, *shape, dtype=torch.float64, generator=generator) - 1)
            assert bool(((op(x) - op(centre)).abs() <= reach + 1e-12).all())

    def test_derivatives(self, name: str) -> None:
        op, shape = LINEAR[name]
        check_derivatives(op, (normal(2, *shape),))

    def test_other_precision_and_empty_batch(self, name: str) -> None:
        check_precision(*LINEAR[name])


@pytest.mark.parametrize("name", JOINS)
class TestJoin:
    def test_adjoints(self, name: str) -> None:
        op, shapes = JOINS[name]
        parts = [normal(2, *s) for s in shapes]
        y = normal(*op(*parts).shape)
        found = sum((a * b).sum() for a, b in zip(op.adjoints(y, shapes), parts, strict=True))
        torch.testing.assert_close(found, (y * op(*parts)).sum())

    def test_statements(self, name: str) -> None:
        op, shapes = JOINS[name]
        assert op.unstated == ()
        measured.join_rounds_as_stated(op, shapes)

    def test_values_transposed_alike(self, name: str) -> None:
        op, shapes = JOINS[name]
        parts = [normal(2, *s) for s in shapes]
        other = op.commuted((1, 0))
        assert other is not None
        assert torch.equal(other(*(x.mT for x in parts)).mT, op(*parts))

    def test_coefficients_are_one(self, name: str) -> None:
        op, shapes = JOINS[name]
        for i in range(len(shapes)):
            others = [torch.zeros(torch.Size(shapes[i]).numel(), *s, dtype=torch.float64) for s in shapes]

            def one(x: Tensor, i: int = i, others: list[Tensor] = others) -> Tensor:
                return op(*others[:i], x, *others[i + 1 :])

            entries = matrix(one, shapes[i])
            assert bool(((entries == 0) | (entries == 1)).all())
            assert bool((entries.sum(0) == 1).all())

    def test_derivatives(self, name: str) -> None:
        op, shapes = JOINS[name]
        check_derivatives(op, tuple(normal(2, *s) for s in shapes))


def knots(op: Activation, shape: Shape) -> Tensor:
    """A point with many entries exactly where the function bends, or tied."""
    candidates = [t.flatten() for t in op.tensors().values()] + [torch.zeros(1, dtype=torch.float64)]
    values = torch.cat([c[c.isfinite()] for c in candidates])
    picks = torch.randint(len(values), shape, generator=generator)
    return values[picks]


def regions(op: Activation, shape: Shape) -> list[Region]:
    """Boxes of many sizes around random points and bends, also flat and one-sided ones; the ball holds the box."""
    found = []
    for width, one_sided, bend in itertools.product((0.0, 0.05, 0.5, 3.0), (False, True), (False, True)):
        centre = normal(4, *shape)
        if bend:
            centre[:2] = torch.stack([knots(op, shape), knots(op, shape)])
        below, above = width * positive(4, *shape), width * positive(4, *shape)
        if one_sided:
            side = torch.rand(4, *shape, generator=generator) < 0.5
            below, above = torch.where(side, below, 0), torch.where(side, 0, above)
        box = Region(centre, centre - below, centre + above, torch.full((4,), torch.inf, dtype=torch.float64))
        found.append(box.box_to_ball())
    return found


def steep(op: Activation, shape: Shape) -> list[Region]:
    """Boxes whose centre lies far from a knot, and which end just behind it."""
    found = []
    for sign, behind in itertools.product((-1.0, 1.0), (1e-12, 1e-9, 1e-6, 1e-3)):
        knot = knots(op, (2, *shape))
        centre = knot + sign
        ends = torch.stack([knot - sign * behind, centre])
        box = Region(centre, ends.amin(0), ends.amax(0), torch.full((2,), torch.inf, dtype=torch.float64))
        found.append(box.box_to_ball())
    return found


def samples(z: Region, count: int) -> Tensor:
    """Points of the box `[count, batch, *shape]`: random ones and random corners."""
    share = torch.rand(count, *z.centre.shape, dtype=torch.float64, generator=generator)
    share[::2] = share[::2].round()
    return torch.minimum(torch.maximum(z.lower + share * (z.upper - z.lower), z.lower), z.upper)


def size(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


@pytest.mark.parametrize("name", ACTIVATIONS)
class TestActivation:
    def test_samples_stay_in_the_box(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape):
            lower, upper = op.box(z.lower, z.upper)
            for x in (z.centre, *samples(z, 12)):
                assert bool(((op(x) >= lower - 1e-12) & (op(x) <= upper + 1e-12)).all())

    def test_constant_outputs_do_not_move(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape):
            still = ~op.varying(z)
            for x in samples(z, 12):
                torch.testing.assert_close(op(x)[still], op(z.centre)[still], atol=1e-12, rtol=0)

    def test_gaps_say_what_varies(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape):
            varying = op.varying(z)
            assert varying.dtype == torch.bool
            assert varying.shape == op(z.centre).shape
            for gap in op.gaps(z):
                assert torch.broadcast_shapes(gap.shape, varying.shape) == varying.shape
                assert not bool((varying & (gap <= 0)).any())

    def test_slope_bounds_every_pair_of_points(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape):
            slope, points = op.slope(z), samples(z, 12)
            assert slope.shape == z.centre.shape
            for a, b in itertools.pairwise((z.centre, *points)):
                assert bool((size(op(a) - op(b)) <= size(slope * (a - b)) + 1e-12).all())

    def test_slope_bounds_one_entry_at_a_time(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape)[::2]:
            slope = op.slope(z)
            for a, b in zip(samples(z, 12), samples(z, 12), strict=True):
                only = torch.randint(shape_size(shape), (), generator=generator)
                mask = torch.arange(shape_size(shape)).reshape(shape) == only
                moved = torch.where(mask, b, a)
                assert bool((size(op(a) - op(moved)) <= size(slope * (a - moved)) + 1e-12).all())

    def test_secant_bounds_deviation_from_the_centre(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape):
            secant = op.secant(z)
            assert secant.shape == z.centre.shape
            assert bool(secant.isfinite().all())
            for a in samples(z, 20):
                assert bool((size(op(a) - op(z.centre)) <= size(secant * (a - z.centre)) + 1e-9).all())

    def test_secant_at_most_slope_at_most_global(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        for z in regions(op, shape):
            slope, secant = op.slope(z), op.secant(z)
            assert bool((secant >= 0).all())
            assert bool((secant <= slope).all())
            assert bool((slope <= op.global_slope(shape) + 1e-12).all())
        assert torch.broadcast_shapes(op.global_slope(shape).shape, shape) == torch.Size(shape)

    def test_statements(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        assert op.unstated == ()
        measured.activation_rounds_as_stated(op, shape)
        measured.activation_increases_as_stated(op, shape)
        measured.entries_stay_apart_as_stated(op, shape)
        measured.slopes_round_as_stated(op, [*regions(op, shape), *steep(op, shape)])

    def test_onnxruntime_keeps_them(self, name: str) -> None:
        measured.runtime_rounds_as_stated(*ACTIVATIONS[name])

    def test_nan_varies_and_has_full_slope(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        z = regions(op, shape)[4]
        nan = torch.full_like(z.centre, torch.nan)
        unknown = Region(z.centre, nan, nan, z.radius)
        everything = Region(z.centre, z.centre - 1e6, z.centre + 1e6, torch.full_like(z.radius, 1e9))
        assert bool((op.varying(unknown) | ~op.varying(everything)).all())
        for bound in (op.slope, op.secant):
            found, full = bound(unknown), op.slope(everything)
            assert not bool((found < full - 1e-9).any())

    def test_derivatives(self, name: str) -> None:
        op, shape = ACTIVATIONS[name]
        check_derivatives(op, (normal(2, *shape),))

    def test_other_precision_and_empty_batch(self, name: str) -> None:
        check_precision(*ACTIVATIONS[name])


def shape_size(shape: Shape) -> int:
    return torch.Size(shape).numel()


def check_derivatives(op: Op, inputs: tuple[Tensor, ...]) -> None:
    """By all inputs and all parameters, against finite differences."""
    op = op.to("cpu", torch.float64)
    tensors = {k: t for k, t in op.tensors().items() if bool(t.isfinite().all())}

    def function(*values: Tensor) -> Tensor:
        parameters: dict[str, Any] = dict(zip(tensors, values[len(inputs) :], strict=True))
        return dataclasses.replace(op, **parameters)(*values[: len(inputs)])  # type: ignore[type-var]

    leaves = (*inputs, *tensors.values())
    assert torch.autograd.gradcheck(function, tuple(v.detach().clone().requires_grad_() for v in leaves))


def check_precision(op: Op, shape: Shape) -> None:
    """Parameters move to float32, results stay close, and no image gives no result."""
    x = normal(2, *shape)
    single = op.to("cpu", torch.float32)
    assert single(x.float()).dtype == torch.float32
    torch.testing.assert_close(single(x.float()).double(), op(x), atol=1e-4, rtol=1e-4)
    assert op(x[:0]).shape[0] == 0
