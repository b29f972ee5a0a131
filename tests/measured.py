"""Statements of operators, measured: float32 evaluations in orders of summation chosen to be bad, against exact values.

Each function asserts that one operator keeps what it states. tests/ops/test_contract.py asks them of every operator,
tests/ops/test_false_statements.py of operators that lie.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnxruntime
import torch
from denormals import flushing
from numpy.typing import NDArray
from random_layers import exact
from torch import Tensor

from llcert.domain.region import Region
from llcert.frontend.writer import to_model
from llcert.ir import Activation, Input, Join, LinearOp, Network, Op, Shape, apply, stated_roundings
from llcert.numerics.rounding import SINGLE
from llcert.ops import BatchNorm

Extended = NDArray[np.longdouble]
Singles = NDArray[np.float32]

POINTS = 48
"""Points of one measurement: of ordinary sizes, of many sizes, all of one sign, subnormal, mostly zeros, almost alike,
and zero but for one entry of any size, whose product stands alone or beside an offset of the size of its rounding."""


def points(shape: Shape, seed: int = 0) -> Tensor:
    """Inputs `[POINTS, *shape]` in float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(POINTS, *shape, generator=generator)
    x[1::8] *= torch.exp(4 * torch.randn(x[1::8].shape, generator=generator))
    x[2::8] = x[2::8].abs()
    x[3::8] *= 2.0**-133
    x[4::8] *= (torch.rand(x[4::8].shape, generator=generator) < 0.2).float()
    x[5::8] = 1 + x[5::8] * 2.0**-20
    flat = x.reshape(POINTS, -1)
    for point in range(6, POINTS, 4):
        place, exponent = (int(torch.randint(n, (), generator=generator)) for n in (flat.shape[1], 30))
        flat[point] = torch.where(torch.arange(flat.shape[1]) == place, flat[point] * 2.0**exponent, 0.0)
    return flat.reshape(x.shape)


def linear_map_rounds_as_stated(op: LinearOp, shape: Shape) -> None:
    """Sums of products in any order, with and without fused multiply-adds and subnormals; and as torch computes it."""
    op, x = op.to("cpu", torch.float32), points(shape)
    truth, allowed = _true_sums(op, x), _sums_allowed(op, x)
    for name, value in runs(op, x):
        _compare(name, value, truth, allowed)


def _compare(name: str, value: Singles, truth: Extended, allowed: Extended) -> None:
    wrong = np.abs(value.astype(np.longdouble) - truth)
    assert (wrong <= allowed).all(), f"{name}: off by {float(wrong.max()):.3g}, more than is stated"


def _true_sums(op: LinearOp, x: Tensor) -> Extended:
    """`A x + b` in extended precision, `[points, outputs]`."""
    wide, shape = op.to("cpu", torch.float64), tuple(x.shape[1:])
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    return _extended(x) @ exact(wide, shape).T + _true_offset(wide, zero)


def _true_offset(wide: LinearOp, zero: Tensor) -> Extended:
    if not isinstance(wide, BatchNorm):
        return _extended(wide(zero))
    bias, mean, weight, variance = (_extended(t[None])[0] for t in (wide.bias, wide.mean, wide.weight, wide.variance))
    shift = bias - mean * weight / np.sqrt(variance + np.longdouble(wide.eps))
    return np.repeat(shift, zero[0, 0].numel())[None]


def _extended(x: Tensor) -> Extended:
    return x[..., None].flatten(1).double().numpy().astype(np.longdouble)


def _sums_allowed(op: LinearOp, x: Tensor) -> Extended:
    """The stated roundings of every product, one of every sum, an underflow of each operand and result; nothing for
    copies."""
    wide, shape = op.to("cpu", torch.float64), tuple(x.shape[1:])
    matrix, values = np.abs(exact(wide, shape)), np.abs(_extended(x))
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    offset = _extended(wide.offset_size(zero).expand_as(wide(zero)))
    if op.copies:
        return np.zeros_like(values @ matrix.T)
    met = (values != 0).astype(np.longdouble)
    terms = met @ (matrix != 0).T.astype(np.longdouble) + (offset != 0)
    lost = met @ matrix.T + values @ (matrix != 0).T + 2 * terms + 2 * stated_roundings(op) * (terms > 0)
    return _allowed(stated_roundings(op) + np.maximum(terms - 1, 0), values @ matrix.T + offset, 4 * lost)


def _allowed(roundings: Extended | int, size: Extended, lost: Extended) -> Extended:
    """So many roundings of sizes, and so many of the smallest normal number."""
    relative = roundings * np.longdouble(SINGLE.unit)
    return relative / (1 - relative) * size + np.longdouble(SINGLE.tiny) * lost


def join_rounds_as_stated(op: Join, shapes: Sequence[Shape]) -> None:
    """Sums of the parts that each value contributes, in any order; and as torch computes it."""
    inputs = [points(shape, seed) for seed, shape in enumerate(shapes)]
    alone = [_alone(op, inputs, i) for i in range(len(inputs))]
    parts = np.stack([op(*values).flatten(1).numpy() for values in alone], -1)
    met = (parts != 0).sum(-1).astype(np.longdouble)
    size = np.abs(parts).astype(np.longdouble).sum(-1)
    roundings = stated_roundings(op) * (met > 0) + np.maximum(met - 1, 0)
    allowed = np.zeros_like(size) if op.copies else _allowed(roundings, size, 4 * met)
    truth = parts.astype(np.longdouble).sum(-1)
    _compare("torch", op(*inputs).flatten(1).numpy(), truth, allowed)
    if op.copies:
        _compare("torch, flushing", flushing(lambda: op(*inputs)).flatten(1).numpy(), truth, allowed)
        return
    ones = np.ones((1, parts.shape[-1]), np.float32)
    for order, flush in itertools.product(ORDERS, (False, True)):
        flat = parts.reshape(-1, parts.shape[-1])
        value = added_up(ones, flat, np.zeros(1, np.float32), order, fused=False, flush=flush)
        _compare(f"{order}{', flushing' * flush}", value.reshape(size.shape), truth, allowed)


def _alone(op: Join, inputs: Sequence[Tensor], index: int) -> list[Tensor]:
    return [x if i == index else torch.zeros_like(x) for i, x in enumerate(inputs)]


def numbers(op: Op) -> Tensor:
    """Float32 numbers of all sizes, and those around the places where a function may bend or overflow."""
    sizes = 2.0 ** torch.arange(-149, 127, dtype=torch.float64)
    held = [t.flatten().double() for t in op.tensors().values()]
    near = torch.cat([torch.tensor([0.0, 1.0, 16.6, 20.0, 87.4, 88.8, 103.9, 709.8], dtype=torch.float64), *held])
    near = near[near.isfinite()].float()
    around = torch.cat([near, *(torch.nextafter(near, torch.tensor(s)) for s in (-torch.inf, torch.inf))])
    ordinary = torch.randn(600, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 12, 600)
    spread = sizes.float() * (1 + torch.rand(len(sizes), generator=torch.Generator().manual_seed(1)))
    pool = torch.cat([around, ordinary, spread, sizes.float(), torch.full((1,), SINGLE.largest / 8)])
    return torch.cat([pool, -pool])


def arguments(op: Op, shape: Shape) -> Tensor:
    """Those numbers, in random places of values `[points, *shape]`."""
    pool, entries = numbers(op), int(np.prod(shape))
    generator = torch.Generator().manual_seed(0)
    rows = [pool[torch.randperm(len(pool), generator=generator)] for _ in range(3)]
    flat = torch.cat(rows)
    return flat[: len(flat) // entries * entries].reshape(-1, *shape)


def activation_rounds_as_stated(op: Activation, shape: Shape) -> None:
    """As torch computes it, with and without subnormals, wherever the exact value fits float32."""
    op = op.to("cpu", torch.float32)
    z = arguments(op, shape)
    for name, value in (("torch", op(z)), ("torch, flushing", flushing(lambda: op(z)))):
        activation_is_near(op, z, value, name, flushed="flushing" in name)


def activation_is_near(op: Activation, z: Tensor, value: Tensor, name: str, *, flushed: bool) -> None:
    """Asserts that computed values are as near to the exact ones as is stated."""
    truth = op.to("cpu", torch.float64)(z.double())
    fits, wrong = truth.abs() <= SINGLE.largest, (value.double() - truth).abs()
    roundings = stated_roundings(op)
    size = truth.abs() if op.relative else truth.abs().clamp(min=1)
    relative = roundings * SINGLE.unit
    allowed = relative / (1 - relative) * size + 2 * roundings * SINGLE.tiny
    if op.relative:
        allowed = torch.where(truth == 0, 0.0, allowed)
    if flushed:
        slope = op.global_slope(tuple(z.shape[1:])).double()
        largest = z.double().flatten(1).abs().amax(1).reshape(-1, *[1] * (truth.ndim - 1))
        allowed = allowed + 2 * SINGLE.tiny * (1 + (largest + slope.max() if roundings else 0))
    assert bool((wrong <= allowed)[fits].all()), f"{name}: off by {float(wrong[fits].max()):.3g}, more than is stated"


def activation_increases_as_stated(op: Activation, shape: Shape) -> None:
    """No output falls by more than its rounding where inputs grow."""
    pool = arguments(op, shape).double()
    pool = pool[(pool.abs() < 1e4).flatten(1).all(1)]
    for lower, upper in itertools.pairwise(pool):
        below, above = torch.minimum(lower, upper)[None], torch.maximum(lower, upper)[None]
        least, most = op(below), op(above)
        assert not op.increasing or bool((least <= most + 1e-12 * (1 + most.abs())).all()), "falls"


def slopes_round_as_stated(op: Activation, regions: Sequence[Region]) -> None:
    """Slopes and secants in float32, rounded up as stated, are not below those in float64; 0 and 1 are exact."""
    single = op.to("cpu", torch.float32)
    wide = single.to("cpu", torch.float64)
    shape = tuple(regions[0].centre.shape[1:])
    pairs = [(single.global_slope(shape), wide.global_slope(shape))]
    for region in regions:
        narrow = Region(region.centre.float(), region.lower.float(), region.upper.float(), region.radius.float())
        lower, upper = torch.minimum(narrow.lower, narrow.centre), torch.maximum(narrow.upper, narrow.centre)
        narrow = Region(narrow.centre, lower, upper, narrow.radius)
        exact_region = Region(*(t.double() for t in (narrow.centre, narrow.lower, narrow.upper, narrow.radius)))
        pairs += [(getattr(single, name)(narrow), getattr(wide, name)(exact_region)) for name in ("slope", "secant")]
    assert op.slope_roundings is not None
    relative = op.slope_roundings * SINGLE.unit
    for found, truth in pairs:
        rounded = (found != 0) & (found != 1)
        least = torch.where(rounded, found.double() * (1 + relative / (1 - relative)), found.double())
        assert bool((least >= truth * (1 - 1e-14)).all()), "a slope is farther below the true one than is stated"


def entries_stay_apart_as_stated(op: Op, shape: Shape) -> None:
    """An entrywise operator reads the input in its place alone; transposed, it is its own counterpart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    if op.entrywise:
        assert op(x).shape == x.shape
        only = (torch.rand(6, *shape, generator=generator) < 0.3).expand(x.shape)
        moved = torch.where(only, x, x + 3)
        assert torch.equal(op(moved)[only], op(x)[only]), "reads an entry in another place"
    for order in itertools.permutations(range(len(shape))):
        other = op.commuted(order)
        back = sorted(range(len(shape)), key=order.__getitem__)
        if other is not None:
            before = x.permute(0, *(1 + a for a in back))
            assert torch.equal(other(before).permute(0, *(1 + a for a in order)), op(x)), "does not commute"


ENTRYWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute value": torch.abs,
    "square": torch.square,
    "twice": lambda a: 2 * a,
    "what is small": lambda a: torch.where(a.abs() < 0.5, a.abs(), 0.0),
    "one becomes zero": lambda a: torch.where(a.abs() == 1, 0.0, a),
    "count": lambda a: (a != 0).to(torch.float64),
}


def coefficients_change_as_stated(op: LinearOp, shape: Shape) -> None:
    """The transformed operator has the changed matrix, ones included, and no offset."""
    size = int(np.prod(shape))
    unit, zero = torch.eye(size, dtype=torch.float64).reshape(size, *shape), torch.zeros(1, *shape, dtype=torch.float64)
    for name, change in ENTRYWISE.items():
        changed = op.transformed(change)
        torch.testing.assert_close(changed.linear(unit), change(op.linear(unit)), msg=name)
        assert bool((changed(zero) == 0).all()), name
        y = torch.randn_like(changed.linear(zero))
        torch.testing.assert_close(changed.adjoint(y, shape), LinearOp.adjoint(changed, y, shape), msg=name)


def entries_move_as_stated(op: LinearOp, shape: Shape) -> None:
    """Rows and columns with one entry at most where the operator says that it permutes and scales, or copies."""
    size = int(np.prod(shape))
    entries = op.linear(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).T
    rows, columns = (entries != 0).sum(1), (entries != 0).sum(0)
    assert not op.is_scaled_permutation or bool((rows <= 1).all() and (columns <= 1).all()), "is_scaled_permutation"
    assert not op.copies or bool((rows <= 1).all() and ((entries == 0) | (entries == 1)).all()), "copies"


def runtime_rounds_as_stated(op: LinearOp | Activation, shape: Shape) -> None:
    """As onnxruntime computes it, with and without its optimisations."""
    op = op.to("cpu", torch.float32)
    activates = isinstance(op, Activation)
    x = arguments(op, shape) if activates else points(shape)
    model = to_model(Network(apply(op, apply(Input(shape))))).SerializeToString()
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, 1, 4
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (value,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        if isinstance(op, Activation):
            activation_is_near(op, x, torch.from_numpy(value), f"onnxruntime, {level}", flushed=True)
        else:
            value = value.reshape(len(x), -1)
            _compare(f"onnxruntime, {level}", value, _true_sums(op, x), _sums_allowed(op, x))


def runs(op: LinearOp, x: Tensor) -> Iterator[tuple[str, Singles]]:
    """Evaluations in float32, `[points, outputs]`, by name."""
    yield "torch", op(x).flatten(1).numpy()
    yield "torch, flushing", flushing(lambda: op(x)).flatten(1).numpy()
    if op.copies:
        return
    unit = torch.eye(x[0].numel()).reshape(-1, *x.shape[1:])
    matrix = op.linear(unit).flatten(1).T.numpy()
    offset = op(torch.zeros(1, *x.shape[1:])).flatten().numpy()
    for order, fused, flush in itertools.product(ORDERS, (False, True), (False, True)):
        value = added_up(matrix, x.flatten(1).numpy(), offset, order, fused=fused, flush=flush)
        yield f"{order}{', fused' * fused}{', flushing' * flush}", value


ORDERS: dict[str, Callable[[Singles], NDArray[np.int64]]] = {
    "as they stand": lambda p: np.broadcast_to(np.arange(p.shape[-1]), p.shape),
    "backwards": lambda p: np.broadcast_to(np.arange(p.shape[-1])[::-1], p.shape),
    "ascending": lambda p: np.argsort(p, axis=-1),
    "descending": lambda p: np.argsort(-p, axis=-1),
    "largest first": lambda p: np.argsort(-np.abs(p), axis=-1),
    "smallest first": lambda p: np.argsort(np.abs(p), axis=-1),
}
"""In which order products are added up."""


def added_up(matrix: Singles, x: Singles, offset: Singles, order: str, *, fused: bool, flush: bool) -> Singles:
    """`A x + b`, one product after the other, every result in float32; fused: products are not rounded alone."""
    matrix, x, offset = (_normal(v) if flush else v for v in (matrix, x, offset))
    factors = np.concatenate([np.broadcast_to(matrix, (len(x), *matrix.shape)), _column(offset, len(x))], -1)
    wide = np.broadcast_to(x[:, None], (len(x), *matrix.shape))
    values = np.concatenate([wide, _column(np.ones(len(matrix), np.float32), len(x))], -1)
    with np.errstate(all="ignore"):
        places = ORDERS[order](factors * values)
        factors, values = (np.take_along_axis(v, places, -1) for v in (factors, values))
        total = np.zeros(factors.shape[:2], np.float32)
        for k in range(factors.shape[-1]):
            term = factors[..., k].astype(np.longdouble) * values[..., k]
            if not fused:
                term = _normal(term.astype(np.float32)) if flush else term.astype(np.float32)
            total = (term.astype(np.longdouble) + total).astype(np.float32)
            total = _normal(total) if flush else total
    return total


def _column(rows: Singles, count: int) -> Singles:
    """One more term of every row, `[points, rows, 1]`."""
    return np.broadcast_to(rows[None, :, None], (count, len(rows), 1))


def _normal(v: Singles) -> Singles:
    return np.where(np.abs(v) < np.float32(SINGLE.tiny), np.float32(0), v)
