"""Enclosures of networks whose values have different number formats, against evaluations in those."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from mixed import in_own_formats, mixed
from proofs import deployed_values, points_of, proved, stays_inside, values_of
from random_graphs import random_image, random_network
from torch import Tensor

from llcert.bounds.forward.roundoff import BlockSizes, converted
from llcert.domain.region import Region
from llcert.ir import Input, Network, Node, apply
from llcert.numerics.rounding import DOUBLE, SINGLE
from llcert.ops import Affine, Cast, Linear, relu
from llcert.ops.cast import cast
from llcert.program import lower

EPS = (0.0, 1e-3, 0.1, 1.0)


@pytest.mark.parametrize("seed", range(24))
@torch.no_grad()
def test_values_in_their_own_formats_lie_inside(seed: int) -> None:
    network = mixed(random_network(seed), seed)
    image, eps = random_image(network, seed).to(network.input.dtype), EPS[seed % len(EPS)]
    points = points_of(image, eps * (1 - 1e-6), 40, seed).to(network.input.dtype)
    away = torch.linalg.vector_norm((points.double() - image.double()).flatten(1), dim=1)
    points = torch.cat([image, points[away <= eps]])
    program, trace = proved(network, image, eps)
    stays_inside(program, trace, *values_of(program, points.double()))
    for order in range(4):
        values = in_own_formats(network, points, 4 * seed + order, flush=order == 2)
        stays_inside(program, trace, *deployed_values(network, program, values))


def sizes(output: Node, image: Tensor) -> tuple[BlockSizes, Tensor]:
    """The last block of a network without activations at one point, and its value there, float64."""
    program = lower(Network(output), dtype=torch.float64)
    point = Region(image, image, image, torch.zeros(len(image), dtype=torch.float64))
    return BlockSizes.of(program.blocks[-1], {program.input: point}), program.logits(image)


def shifted(node: Node, shift: float) -> Node:
    return apply(Linear(torch.ones(1, 1, dtype=node.dtype), torch.tensor([shift], dtype=node.dtype)), node)


def test_layers_in_float32_cost_what_float32_rounds_also_below_a_float64_one() -> None:
    """`(x + 1000) - 1000` in float32, then a layer in float64: the parameters' widest format says nothing."""
    there = shifted(shifted(apply(Input((1,))), 1000.0), -1000.0)
    wide = apply(Linear(torch.ones(1, 1, dtype=torch.float64)), cast(there, torch.float64))
    x = torch.linspace(0.1, 0.9, 2001)[:, None]
    known, value = sizes(wide, x.double())
    bound = known.deployed_error(known.size)
    wrong = (in_own_formats(Network(wide), x, 0)[wide] - value).abs()
    assert bool((wrong <= bound).all())
    assert float(wrong.max()) > 2e-5
    assert float(bound.max()) < 1e3 * float(wrong.max())


def test_layers_in_float64_cost_what_float64_rounds_also_above_a_float32_image() -> None:
    there = shifted(shifted(cast(apply(Input((1,))), torch.float64), 1000.0), -1000.0)
    known, _ = sizes(there, torch.full((1, 1), 0.3).double())
    assert 0 < float(known.deployed_error(known.size)) < 1e-11


def test_narrowing_costs_one_rounding_and_widening_none() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    bound = converted(x, torch.zeros_like(x), SINGLE)
    wrong = (x.float().double() - x).abs()
    assert bool((wrong <= bound).all())
    assert float(bound.max()) <= 2.0**-24 * 100 * (1 + 1e-6)
    assert float(converted(x, torch.zeros_like(x), DOUBLE).max()) <= 2.0**-124
    for value in map(float, x[:20]):
        assert abs(Fraction(float(torch.tensor(value).float())) - Fraction(value)) <= Fraction(
            float(converted(torch.tensor(value).double(), torch.zeros(()).double(), SINGLE))
        )


def test_nothing_costs_nothing_and_errors_are_carried() -> None:
    size, error = torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0, 0.5]).double()
    narrow, wide = (converted(size, error, form) for form in (SINGLE, DOUBLE))
    assert narrow[0] == wide[0] == 0
    assert 0.5 + 1.5 * 2.0**-24 <= float(narrow[1]) <= 0.5 + 1.6 * 2.0**-24
    assert 0.5 <= float(wide[1]) <= 0.5 + 1e-15


@pytest.mark.parametrize("size", [2e38, 1e39, torch.inf, torch.nan])
def test_a_cast_that_may_overflow_has_no_bound(size: float) -> None:
    found = converted(torch.tensor([size]).double(), torch.zeros(1).double(), SINGLE)
    assert not bool((found < torch.inf).any())


def test_a_cast_that_overflows_takes_the_image_with_it() -> None:
    """1e39 fits float64: what float32 makes of it is infinite, and a ReLU behind would hide a NaN."""
    image = apply(Input((1,), torch.float64))
    large = apply(Affine(scale=torch.tensor(1e39, dtype=torch.float64)), image)
    single = apply(relu(), cast(large, torch.float32))
    network = Network(apply(Linear(torch.ones(2, 1)), single))
    _, trace = proved(network, torch.ones(1, 1, dtype=torch.float64), 0.1)
    assert bool(trace.post_activation[trace_output(trace)].region.lower.isnan().all())
    _, real = proved(network, torch.ones(1, 1, dtype=torch.float64), 0.1, deployed=False)
    assert bool(real.post_activation[trace_output(real)].region.lower.isfinite().all())


def trace_output(trace: object) -> Node:
    return list(trace.post_activation)[-1]  # type: ignore[attr-defined]


def test_a_threshold_that_the_next_format_cannot_hold_is_paid_for() -> None:
    """Every value is clipped at fl64(0.1), a constant; float32 reads another number, which is no longer that one."""
    image = apply(Input((1,), torch.float64))
    clipped = apply(relu(), apply(Affine(scale=torch.tensor(0.0).double(), shift=torch.tensor(0.1).double()), image))
    output = apply(Linear(torch.ones(2, 1)), cast(clipped, torch.float32))
    program, trace = proved(Network(output), torch.ones(1, 1, dtype=torch.float64), 0.5)
    values = in_own_formats(Network(output), torch.ones(3, 1, dtype=torch.float64), 0)
    stays_inside(program, trace, *deployed_values(Network(output), program, values))
    assert float(trace.roundoff[program.output].error.max()) >= abs(float(torch.tensor(0.1).double() - 0.1))


def test_the_last_cast_counts() -> None:
    """Logits that differ in float64 and tie in float32: the error of the last value says so."""
    image = apply(Input((1,)))
    wide = Linear(torch.ones(2, 1, dtype=torch.float64), torch.tensor([1 + 1e-9, 1.0], dtype=torch.float64))
    inside = apply(wide, cast(image, torch.float64))
    for output, tie in ((inside, False), (apply(Cast(torch.float32), inside), True)):
        x = torch.full((1, 1), 0.5)
        logits = in_own_formats(Network(output), x, 0)[output][0]
        known, value = sizes(output, x.double())
        error = known.deployed_error(known.size)[0]
        assert bool(logits[0] == logits[1]) is tie
        assert bool(value[0, 0] - value[0, 1] > error.sum()) is not tie
