"""Bounds of rounding errors against errors that are measured, in orders of summation chosen to be bad."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from proofs import ORDERS, Order, in_float32, other_batch_norm
from random_layers import exact
from torch import Tensor

from llcert.bounds.forward.roundoff import BlockSizes, activation_flushing, activation_rounding, distance, largest
from llcert.domain.region import Region
from llcert.ir import Input, LinearOp, Network, Shape, apply
from llcert.numerics.rounding import DOUBLE, SINGLE
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Concat,
    Conv,
    Expand,
    Leaky,
    Linear,
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
from llcert.program import lower

generator = torch.Generator().manual_seed(0)


def single(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def positive(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator) + 0.1


LAYERS: dict[str, tuple[LinearOp, Shape]] = {
    "dense": (Linear(single(6, 200), single(6)), (200,)),
    "dense, no bias": (Linear(single(6, 50)), (50,)),
    "dense, cancelling": (Linear(torch.cat([single(4, 30), -single(4, 30)], 1), 1e3 * single(4)), (60,)),
    "dense, large bias": (Linear(1e-3 * single(4, 8), torch.full((4,), 1e8)), (8,)),
    "dense, many sizes": (Linear(single(4, 100) * torch.logspace(-8, 8, 100)), (100,)),
    "convolution": (Conv(single(4, 3, 3, 3), single(4), (1, 1), (1, 1)), (3, 6, 5)),
    "batch norm": (BatchNorm(single(8), single(8), 100 * single(8), positive(8), spatial=1), (8, 40)),
    "batch norm, small variance": (BatchNorm(single(8), single(8), single(8), positive(8) * 1e-8, spatial=1), (8, 40)),
    "average": (SumPool((3, 3), (1, 1), 1 / 9), (2, 6, 6)),
    "mean": (Reduce((1, 2), 1 / 63), (3, 7, 9)),
    "affine": (Affine(single(50), single(50)), (50,)),
    "shift": (Affine(shift=single(50)), (50,)),
    "shift, cancelling": (Affine(shift=-1e6 * single(50)), (50,)),
    "difference from a constant": (Affine(torch.tensor(-1.0), single(50)), (50,)),
    "sum": (Reduce((0,)), (50, 3)),
}

COPIES: dict[str, tuple[LinearOp, Shape]] = {
    "expand": (Expand((4, 3, 5)), (3, 1)),
    "expand one number": (Expand((7,)), ()),
    "repeat": (Take(1, (4, 0, 4, 4)), (3, 5)),
    "reshape": (Reshape((15,)), (3, 5)),
    "transpose": (Transpose((1, 0)), (3, 5)),
    "pad": (Pad(((1, 2),), 0.25), (5,)),
}


def passage_of(op: LinearOp, x: Tensor) -> tuple[Network, BlockSizes]:
    """The layer alone, its sizes over the one point x."""
    network = Network(apply(op, apply(Input(tuple(x.shape[1:])))))
    program = lower(network, dtype=torch.float64)
    point = Region(x.double(), x.double(), x.double(), torch.zeros(len(x), dtype=torch.float64))
    return network, BlockSizes.of(program.blocks[0], {program.input: point})


def truth(op: LinearOp, x: Tensor) -> np.ndarray:
    """The layer's value in extended precision, `[points, outputs]`."""
    wide = op.to("cpu", torch.float64)
    values = x.flatten(1).numpy().astype(np.longdouble)
    if isinstance(wide, BatchNorm):
        values = values - np.repeat(wide.mean.numpy(), x[0, 0].numel()).astype(np.longdouble)
    result = values @ exact(wide, tuple(x.shape[1:])).T
    offset = wide.bias if isinstance(wide, BatchNorm) else wide.offset
    if offset is None:
        return result
    like = wide.linear(x.double())
    shaped = offset.reshape(-1, *[1] * (like.ndim - 2)) if isinstance(wide, BatchNorm) else offset
    return result + shaped.expand_as(like[:1]).flatten().numpy().astype(np.longdouble)


def inputs(shape: Shape) -> Tensor:
    """Points of all kinds of sizes, some with values that cancel."""
    x = single(12, *shape)
    x[::3] *= torch.exp(3 * single(4, *shape))
    x[1::3] = x[1::3].abs()
    return x


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("order", [None, *ORDERS])
def test_no_order_of_summation_errs_more_than_the_bound(name: str, order: str | None) -> None:
    op, shape = LAYERS[name]
    x = inputs(shape)
    network, sizes = passage_of(op, x)
    chosen: Order | None = None if order is None else ORDERS[order]
    found = in_float32(network, x, chosen)[network.output].flatten(1).numpy().astype(np.longdouble)
    wrong = np.abs(found - truth(op, x))
    value = torch.from_numpy(np.abs(truth(op, x)).astype(np.float64)).reshape(sizes.size.shape)
    bound = sizes.deployed_error(DOUBLE.above(value, 4)).flatten(1).numpy()
    assert (wrong <= bound).all(), float((wrong / bound).max())


@pytest.mark.parametrize("name", LAYERS)
def test_float64_errs_less_than_its_own_bound(name: str) -> None:
    op, shape = LAYERS[name]
    x = inputs(shape)
    _, sizes = passage_of(op, x)
    found = op.to("cpu", torch.float64)(x.double()).flatten(1).numpy().astype(np.longdouble)
    assert (np.abs(found - truth(op, x)) <= sizes.float64_error().flatten(1).numpy()).all()
    assert bool((sizes.float64_error() <= 1e-12 * (1 + sizes.size)).all())


@pytest.mark.parametrize("name", COPIES)
def test_copies_lose_nothing(name: str) -> None:
    op, shape = COPIES[name]
    x = inputs(shape)
    network, sizes = passage_of(op, x)
    assert bool((sizes.deployed_error(sizes.size) == 0).all())
    value = in_float32(network, x, None, flush=True)[network.output].double()
    assert torch.equal(value, op.to("cpu", torch.float64)(x.double()))


def test_a_shift_loses_its_own_rounding_and_no_more() -> None:
    x = single(20, 50)
    _, sizes = passage_of(Affine(shift=torch.full((50,), 0.25)), x)
    value = (x.double() + 0.25).abs()
    bound = sizes.deployed_error(value)
    assert bool((bound <= SINGLE.unit * (x.double().abs() + 0.25) * 1.001 + 1e-30).all())
    _, sizes = passage_of(Affine(shift=torch.zeros(50)), x)
    assert bool((sizes.deployed_error(x.double().abs()) <= 1e-36).all()), "adding zero is exact, unless it flushes"


def test_one_value_among_zeros_is_not_rounded() -> None:
    """Parts of a concatenation with constants, padded with zeros and added up."""
    image = apply(Input((4,)))
    parts = [apply(Pad(((0, 4),)), image), apply(Pad(((4, 0),)), image)]
    program = lower(Network(apply(Add(), *parts)), dtype=torch.float64)
    x = inputs((4,)).double()
    sizes = BlockSizes.of(program.blocks[0], {program.input: Region(x, x, x, torch.zeros(len(x), dtype=torch.float64))})
    assert bool((sizes.deployed_error(sizes.size) <= 1e-36).all())


def test_values_side_by_side_keep_their_errors() -> None:
    image = apply(Input((20,)))
    layer = Linear(single(4, 20), single(4))
    program = lower(Network(apply(Concat(0), apply(layer, image), image)), dtype=torch.float64)
    x = inputs((20,)).double()
    point = Region(x, x, x, torch.zeros(len(x), dtype=torch.float64))
    both = BlockSizes.of(program.blocks[0], {program.input: point})
    bound, (_, alone) = both.deployed_error(both.size), passage_of(layer, x.float())
    torch.testing.assert_close(bound[:, :4], alone.deployed_error(alone.size), rtol=1e-9, atol=0)
    assert bool((bound[:, 4:] == 0).all())


@pytest.mark.parametrize("name", ["batch norm", "batch norm, small variance"])
def test_the_other_spelling_of_batch_norm_is_covered(name: str) -> None:
    op, shape = LAYERS[name]
    assert isinstance(op, BatchNorm)
    x = inputs(shape)
    _, sizes = passage_of(op, x)
    found = other_batch_norm(op, x).flatten(1).numpy().astype(np.longdouble)
    bound = sizes.deployed_error(sizes.size).flatten(1).numpy()
    assert (np.abs(found - truth(op, x)) <= bound).all()


def test_the_bound_is_not_far_above_the_worst_order() -> None:
    """All products alike in size and sign: a sum of n in a row really loses about n^2 u / 2 of a term."""
    x = torch.full((1, 1000), 1 + 2**-12)
    op = Linear(torch.full((1, 1000), 1 + 2**-12 + 2**-20))
    network, sizes = passage_of(op, x)
    found = in_float32(network, x, ORDERS["ascending"])[network.output].double()
    wrong = abs(float(found) - float(truth(op, x)[0, 0]))
    bound = float(sizes.deployed_error(sizes.size))
    assert wrong <= bound <= 1e3 * wrong


def test_partial_sums_that_cancel_count_half() -> None:
    x = torch.ones(1, 100)
    op = Linear(torch.cat([torch.ones(1, 50), -torch.ones(1, 50)], 1))
    _, sizes = passage_of(op, x)
    cancelling, alike = (sizes.deployed_error(v * torch.ones(1, 1, dtype=torch.float64)) for v in (0.0, 100.0))
    assert float(cancelling) < 0.6 * float(alike)


def test_errors_grow_through_a_chain() -> None:
    """Two layers in one block, one after the other: what the first errs the second carries on."""
    first, second = Linear(single(30, 40), single(30)), Linear(single(5, 30), single(5))
    image = apply(Input((40,)))
    network = Network(apply(second, apply(first, image)))
    program = lower(network, dtype=torch.float64)
    x = inputs((40,))
    point = Region(x.double(), x.double(), x.double(), torch.zeros(len(x), dtype=torch.float64))
    sizes = BlockSizes.of(program.blocks[0], {program.input: point})
    hidden = truth(first, x)
    weight, bias = second.weight.double().numpy(), second.bias.double().numpy()  # type: ignore[union-attr]
    value = hidden @ weight.astype(np.longdouble).T + bias
    bound = sizes.deployed_error(sizes.size).numpy()
    for order in (None, *ORDERS.values()):
        found = in_float32(network, x, order)[network.output].numpy().astype(np.longdouble)
        assert (np.abs(found - value) <= bound).all()


def test_a_sum_of_branches_counts_the_errors_of_both() -> None:
    image = apply(Input((20,)))
    one, two = Linear(single(4, 20)), Linear(single(4, 20), single(4))
    network = Network(apply(Add(), apply(one, image), apply(two, image)))
    program, x = lower(network, dtype=torch.float64), inputs((20,))
    point = Region(x.double(), x.double(), x.double(), torch.zeros(len(x), dtype=torch.float64))
    bound = BlockSizes.of(program.blocks[0], {program.input: point})
    value = truth(one, x) + truth(two, x)
    for order in (None, *ORDERS.values()):
        found = in_float32(network, x, order)[network.output].numpy().astype(np.longdouble)
        assert (np.abs(found - value) <= bound.deployed_error(bound.size).numpy()).all()


@pytest.mark.parametrize("values", [(1e38, 2e-39), (2e-39, 1e38), (1e-40, 1e-40), (3e-39, 1.0)])
def test_flushed_subnormals_are_covered(values: tuple[float, float]) -> None:
    weight, entry = values
    op, x = Linear(torch.full((1, 3), weight)), torch.full((1, 3), entry)
    network, sizes = passage_of(op, x)
    bound = float(sizes.deployed_error(sizes.size))
    for order in (None, *ORDERS.values()):
        found = float(in_float32(network, x, order, flush=True)[network.output])
        assert abs(found - float(truth(op, x)[0, 0])) <= bound


@pytest.mark.parametrize("entries", [(1e30, 1e30), (3e38, 1.0), (torch.inf, 1.0), (torch.nan, 1.0), (1.0, torch.inf)])
def test_an_overflow_has_no_bound(entries: tuple[float, float]) -> None:
    weight, entry = entries
    _, sizes = passage_of(Linear(torch.full((1, 3), weight)), torch.full((1, 3), entry))
    assert not bool((sizes.deployed_error(sizes.size) < torch.inf).any())


def test_a_source_that_may_overflow_has_no_bound_either() -> None:
    """The value before the activation is small again, but what it is made of is not."""
    point = torch.full((1, 2), 1e39, dtype=torch.float64)
    network = Network(apply(Linear(torch.full((1, 2), 1e-30)), apply(Input((2,)))))
    program = lower(network, dtype=torch.float64)
    region = Region(point, point, point, torch.zeros(1, dtype=torch.float64))
    sizes = BlockSizes.of(program.blocks[0], {program.input: region})
    assert not bool((sizes.deployed_error(sizes.size) < torch.inf).any())


def test_maps_without_a_body_lose_what_an_activation_takes_for_zero() -> None:
    """Of a value that is zero in any case, nothing."""
    network = Network(apply(relu(), apply(Leaky(torch.tensor(0.5)), apply(Input((2,))))))
    program = lower(replace(network, output=apply(Linear(torch.eye(2)), network.output)), dtype=torch.float64)
    point = Region(*[torch.tensor([[1.0, 0.0]], dtype=torch.float64)] * 3, torch.zeros(1, dtype=torch.float64))
    block = program.blocks[1]
    sizes = BlockSizes.of(block, {block.sources[0]: point})
    (lost,) = sizes.deployed_error(sizes.size).tolist()
    assert SINGLE.tiny <= lost[0] <= 1.01 * SINGLE.tiny
    assert lost[1] == 0


def test_a_leak_of_nothing_may_pass_subnormals_on_where_they_are_read_as_zero() -> None:
    phi, z = Leaky(torch.tensor(0.0)), torch.full((8,), -8e-39)
    torch.set_flush_denormal(True)
    try:
        value = phi(z)
    finally:
        torch.set_flush_denormal(False)
    assert bool((value.abs() <= SINGLE.tiny).all())
    region = Region(*[z.double()[None]] * 3, torch.zeros(1, dtype=torch.float64))
    program = lower(Network(apply(Linear(torch.eye(8)), apply(phi, apply(Input((8,)))))), dtype=torch.float64)
    read = BlockSizes.of(program.blocks[0], {program.input: region}).deployed_error(z.double().abs()[None])
    assert bool((region.upper + read > 0).all()), "so that it does not count as constant"


@pytest.mark.parametrize("phi", [Sigmoid(), Tanh(), Leaky(torch.tensor(0.3))])
def test_activations_err_less_than_their_bound(phi: Sigmoid | Tanh | Leaky) -> None:
    z = torch.cat([single(2000) * 3, single(2000) * 30, single(1000) * 1e-20])
    exact_value = phi.to("cpu", torch.float64)(z.double())[None]
    value = Region(exact_value, exact_value, exact_value, torch.zeros(1, dtype=torch.float64))
    assert bool(((phi(z).double() - exact_value).abs() <= activation_rounding(phi, value, SINGLE)).all())


def test_selecting_loses_subnormal_thresholds_only() -> None:
    def region(lower: float, upper: float) -> Region:
        ends = (torch.full((1, 1), e, dtype=torch.float64) for e in ((lower + upper) / 2, lower, upper))
        return Region(*ends, torch.ones(1, dtype=torch.float64))

    for least, most, lost in ((0, 0, False), (1, 1, False), (1e-40, 1e-40, True), (-1, 1, True), (-2, -1, False)):
        z = region(least, most)
        assert bool((activation_flushing(z, z, relu(), SINGLE) > 0).any()) is lost


def test_lengths_of_errors_are_not_below_the_exact_ones() -> None:
    for scale in (1e-300, 1e-170, 1.0, 1e150):
        error = (torch.rand(5, 7, generator=generator, dtype=torch.float64) * scale).clamp(min=0)
        found = distance(error)
        for i in range(5):
            square = sum(Fraction(float(e)) ** 2 for e in error[i])
            assert Fraction(float(found[i])) ** 2 >= square
            assert float(found[i]) <= float(torch.linalg.vector_norm(error[i] / scale)) * scale * (1 + 1e-12) + 1e-300


def test_the_largest_value_of_a_region_counts_its_centre() -> None:
    z = Region(*(torch.tensor([[v]], dtype=torch.float64) for v in (-5.0, -1.0, 2.0)), torch.ones(1))
    assert float(largest(z)) == 5.0
