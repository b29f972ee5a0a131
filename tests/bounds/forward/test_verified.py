"""Enclosures against sampled values, in real numbers and as float32 computes them in many orders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from mixed import in_own_formats, mixed
from proofs import ORDERS, deployed_values, in_float32, points_of, proved, stays_inside, values_of
from random_graphs import in_format, random_image, random_network
from torch import Tensor

from llcert.bounds import RowWeighting, VerifiedArithmetic, global_bound, propagate
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.domain.pixel_range import UNIT
from llcert.ir import Input, Network, Node, apply
from llcert.numerics.rounding import SINGLE
from llcert.ops import Clamp, Linear, relu
from llcert.program import lower
from llcert.spectral import Masked, Norm, PowerIteration, RandomLanczos, Side, VerifiedCholesky

SEEDS = range(24)
EPS = [0.0, 1e-3, 0.1, 1.0]


def single(seed: int) -> Network:
    """A random network in float32."""
    return in_format(random_network(seed), torch.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weighting", RowWeighting)
def test_values_in_real_numbers_lie_inside(seed: int, weighting: RowWeighting) -> None:
    network, image = single(seed), random_image(single(seed), seed).float()
    eps = EPS[seed % len(EPS)]
    for deployed in (False, True):
        program, trace = proved(network, image, eps, weighting=weighting, deployed=deployed)
        stays_inside(program, trace, *values_of(program, points_of(image, eps * (1 - 1e-6), 80, seed)))


@pytest.mark.parametrize("seed", SEEDS)
def test_values_in_float32_lie_inside_whatever_the_order_of_sums(seed: int) -> None:
    network, image = single(seed), random_image(single(seed), seed).float()
    eps = EPS[seed % len(EPS)]
    points = points_of(image, eps * (1 - 1e-6), 40, seed).float()
    inside = torch.linalg.vector_norm((points.double() - image.double()).flatten(1), dim=1) <= eps
    points = points[inside | (torch.arange(len(points)) == 0)]
    program, trace = proved(network, image, eps)
    for order in (None, *ORDERS.values()):
        for flush in (False, True):
            values = in_float32(network, points, order, flush=flush)
            stays_inside(program, trace, *deployed_values(network, program, values))


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_radii_of_global_constants_hold_every_evaluation(seed: int) -> None:
    """Of values in their own formats, flushed or not, and of those in real numbers, around float64's centre."""
    network = mixed(random_network(seed), seed)
    image, eps = random_image(network, seed).to(network.input.dtype), EPS[seed % len(EPS)]
    program = lower(network, dtype=torch.float64)
    bound = replace(proved_bound(program, VerifiedCholesky()), includes_liplt=True)
    ball = enclosing_ball(image.double(), eps, deployed=program.input.rounding)
    trace = propagate(program, ball, VerifiedArithmetic(bound, None, deployed=True))
    points = points_of(image, eps * (1 - 1e-6), 30, seed).to(network.input.dtype)
    stays_inside(program, trace, *values_of(program, points.double()))
    for order in range(4):
        values = in_own_formats(network, points, 4 * seed + order, flush=order == 2)
        stays_inside(program, trace, *deployed_values(network, program, values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slip_pays_for_float64_at_the_centre_and_for_the_evaluation(dtype: torch.dtype) -> None:
    """Where the network is in float64 either errs as much as the other: once for both is too little."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 30, generator=generator).to(dtype)
    network = Network(apply(Linear(weight), apply(Input((30,), dtype))))
    program = lower(network, dtype=torch.float64)
    ball = enclosing_ball(torch.rand(1, 30, generator=generator, dtype=torch.float64), 0.0)
    bound = replace(proved_bound(program), includes_liplt=True)
    trace = propagate(program, ball, VerifiedArithmetic(bound, None, deployed=True))
    assert trace.roundoff is not None
    known = trace.roundoff[program.output]
    real = propagate(program, ball, VerifiedArithmetic(bound, None)).roundoff
    assert real is not None
    deployed = torch.linalg.vector_norm(known.centre_error - known.float64, dim=1)
    assert float(known.slip) >= float(real[program.output].slip + deployed)
    assert float(known.slip) <= 1.01 * float(real[program.output].slip + deployed) + float(known.float64.norm())


def test_permuted_columns_give_the_same_enclosure() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, image = torch.randn(5, 8, generator=generator), torch.rand(1, 8, generator=generator)
    order = torch.randperm(8, generator=generator)
    boxes = []
    for columns in (torch.arange(8), order):
        network = Network(apply(Linear(weight[:, columns]), apply(Input((8,)))))
        program, trace = proved(network, image[:, columns], 0.1)
        boxes.append(trace.post_activation[program.output].region)
    torch.testing.assert_close(boxes[0].lower, boxes[1].lower, rtol=1e-12, atol=1e-12)


def test_the_deployed_enclosure_holds_the_real_one() -> None:
    for seed in SEEDS:
        network, image = single(seed), random_image(single(seed), seed).float()
        (program, wide), (other, tight) = (proved(network, image, 0.1, deployed=d) for d in (True, False))
        for one, two in zip(program.blocks, other.blocks, strict=True):
            outer, inner = wide.post_activation[one.node].region, tight.post_activation[two.node].region
            assert bool((outer.lower <= inner.lower).all())
            assert bool((outer.upper >= inner.upper).all())
            assert bool((outer.radius >= inner.radius).all())


def _small() -> tuple[Network, Tensor]:
    hidden = apply(relu(), apply(Linear(torch.randn(3, 2, generator=torch.Generator().manual_seed(0))), _input()))
    return Network(apply(Linear(torch.eye(3)[:2]), hidden)), torch.full((1, 2), 0.5)


def _input() -> Node:
    return apply(Input((2,)))


def test_a_program_in_float32_is_refused() -> None:
    network, image = _small()
    bound = proved_bound(lower(network, dtype=torch.float64))
    with pytest.raises(ValueError, match="float64"):
        propagate(
            lower(network, dtype=torch.float32), enclosing_ball(image.double(), 0.1), VerifiedArithmetic(bound, None)
        )


def test_a_solver_that_estimates_is_refused() -> None:
    network, image = _small()
    program = lower(network, dtype=torch.float64)
    with pytest.raises(ValueError, match="estimate"):
        propagate(
            program, enclosing_ball(image.double(), 0.1), VerifiedArithmetic(proved_bound(program), PowerIteration())
        )


def test_a_global_bound_that_estimates_is_refused() -> None:
    network, image = _small()
    program = lower(network, dtype=torch.float64)
    with pytest.raises(ValueError, match="estimate"):
        propagate(
            program, enclosing_ball(image.double(), 0.1), VerifiedArithmetic(global_bound(program), VerifiedCholesky())
        )


def test_the_side_is_that_of_the_weakest_norm() -> None:
    network, image = _small()
    program = lower(network, dtype=torch.float64)
    ball, bound = enclosing_ball(image.double(), 0.1), proved_bound(program)
    assert propagate(program, ball, VerifiedArithmetic(bound, None)).side is Side.UPPER
    assert propagate(program, ball, VerifiedArithmetic(bound, VerifiedCholesky())).side is Side.UPPER
    assert propagate(program, ball, VerifiedArithmetic(bound, RandomLanczos())).side is Side.PROBABLE


@dataclass
class Refusing:
    """A solver that never converges."""

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        value = masked.columns.new_zeros(masked.batch)
        return Norm(value, Side.UPPER, start, value.long(), value > 0)


def test_a_norm_that_was_not_proved_is_answered_by_the_unmasked_one() -> None:
    network, image = _small()
    program = lower(network, dtype=torch.float64)
    ball, bound = enclosing_ball(image.double(), 0.1), proved_bound(program)
    refused, none = (propagate(program, ball, VerifiedArithmetic(bound, s)) for s in (Refusing(), None))
    for block in program.blocks:
        assert torch.equal(
            refused.post_activation[block.node].region.radius, none.post_activation[block.node].region.radius
        )


def test_the_enclosing_ball_holds_its_ball() -> None:
    images = torch.tensor([[0.0, 1.0, 0.3]], dtype=torch.float64)
    for eps in (0.0, 5e-324, 1e-300, 0.1, 1e9):
        plain, clipped = enclosing_ball(images, eps), enclosing_ball(images, eps, within=UNIT)
        assert bool((plain.lower < images).all())
        assert bool((plain.upper > images).all())
        assert bool(((clipped.lower <= images) & (clipped.upper >= images)).all())
        assert float(clipped.lower.min()) >= -1e-15
        assert float(clipped.upper.max()) <= 1 + 1e-15
    outside = enclosing_ball(images + 5, 0.1, within=UNIT)
    assert bool(((outside.lower <= images + 5) & (outside.upper >= images + 5)).all()), "the centre stays inside"


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-7, 0.1])
def test_the_deployed_ball_holds_what_its_points_are_rounded_to(eps: float) -> None:
    """Whole images of numbers that float32 does not hold, one of them far from 1, and points of the sphere."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 40, generator=generator, dtype=torch.float64) - 0.5
    images[0, 0], images[0, 1] = 1e4 + 1e-5, 1e-30
    region = enclosing_ball(images, eps, deployed=SINGLE)
    noise = torch.nn.functional.normalize(torch.randn(200, 40, generator=generator, dtype=torch.float64))
    points = images + noise * eps * (1 - 1e-12)
    for reaching in (points, points.float().double()):
        assert bool(((region.lower <= reaching) & (reaching <= region.upper)).all())
        assert bool((torch.linalg.vector_norm(reaching - images, dim=1) <= region.radius).all())
    assert float(region.radius) < eps + 1e-3
    real = enclosing_ball(images, eps)
    assert eps < float(real.radius) < eps + 1e-11


def test_the_ball_pays_for_the_rounding_of_its_centre() -> None:
    """The image of bytes is v/255, which is no float64."""
    levels = torch.arange(1, 256)
    region = enclosing_ball((levels.double() / 255)[None], 0.0)
    exact = [Fraction(v, 255) for v in levels.tolist()]
    ends = (t[0].tolist() for t in (region.lower, region.centre, region.upper))
    for v, low, centre, high in zip(exact, *ends, strict=True):
        assert Fraction(low) <= v <= Fraction(high)
        assert abs(v - Fraction(centre)) <= Fraction(2) ** -53 * Fraction(centre)
    apart = sum((v - Fraction(c)) ** 2 for v, c in zip(exact, region.centre[0].tolist(), strict=True))
    assert apart <= Fraction(float(region.radius)) ** 2


def test_where_float32_may_overflow_nothing_is_known() -> None:
    """inf - inf is NaN, which a later minimum with a threshold hands on."""
    large = apply(relu(), apply(Linear(1e30 * torch.eye(2)), _input()))
    hidden = apply(Clamp(torch.tensor(0.0), torch.tensor(1.0)), apply(Linear(torch.full((2, 2), 1e30)), large))
    network, image = Network(apply(Linear(torch.eye(2)), hidden)), torch.full((1, 2), 0.5)
    for deployed, known in ((True, False), (False, True)):
        program, trace = proved(network, image, 0.1, deployed=deployed)
        assert bool(trace.post_activation[program.blocks[1].node].region.radius.isfinite()) is known
        assert bool(trace.post_activation[program.output].region.radius.isfinite()) is known


@pytest.mark.parametrize("scale", [1e-200, 1e-170, 1e-100])
def test_radii_do_not_vanish_with_their_squares(scale: float) -> None:
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = apply(relu(), apply(Linear(weight * scale), apply(Input((3,)))))
    network = Network(apply(Linear(weight), hidden))
    image = torch.full((1, 3), 0.5, dtype=torch.float64)
    program, trace = proved(network, image, 0.3, deployed=False)
    points = points_of(image, 0.29, 100, 0)
    stays_inside(program, trace, *values_of(program, points))
