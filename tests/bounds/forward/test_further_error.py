"""Lengths of deployed errors over balls: against the errors at sampled points, and against measured ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixed import mixed
from proofs import ORDERS, in_float32
from random_graphs import random_network
from shared_graphs import shared_network
from torch import Tensor

from llcert.bounds import CheckerSlack
from llcert.bounds.forward.box import box
from llcert.bounds.forward.further_error import further_error
from llcert.bounds.forward.outward import affine_image, around_centre
from llcert.bounds.forward.roundoff import BlockRoundoff, BlockSizes, distance, largest
from llcert.bounds.forward.slack import TIGHT, Slack
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Input, Network, Node, apply
from llcert.numerics.rounding import DOUBLE, SINGLE
from llcert.numerics.tensors import flat, spread
from llcert.ops import Add, Affine, Concat, Linear, Pad, Take, relu
from llcert.ops.cast import cast
from llcert.program import Block, lower

NETWORKS: list[tuple[Callable[[int], Network], int]] = [(random_network, seed) for seed in range(10)]
NETWORKS += [(make, seed) for make in (shared_network, lambda s: mixed(random_network(s), s)) for seed in range(10)]


def errors_of(block: Block, regions: Mapping[Node, Region], slack: Slack = TIGHT) -> BlockRoundoff:
    """The errors of a deployed block over regions of its sources."""
    sources = {s: MaskedRegion(r, torch.ones_like(r.centre, dtype=torch.bool)) for s, r in regions.items()}
    z, roundoff = affine_image(block, sources, deployed=True, slack=slack)
    return around_centre(block, sources, z, roundoff, slack)


def balled(roundoff: BlockRoundoff, weights: Tensor) -> Tensor:
    """The right side of (12.3) alone, for the deployed and the float64 errors together."""
    return distance(roundoff.centre_error, weights) + flat(weights).amax(1) * roundoff.further_error


def at(block: Block, points: Mapping[Node, Tensor]) -> Tensor:
    """The deployed errors that lemma 3 allows at single values of the sources."""
    sizes = BlockSizes.of(block, {s: Region.point(x) for s, x in points.items()})
    return sizes.deployed_error(DOUBLE.above(block.value(points).abs() + sizes.float64_error()))


def random_region(shape: tuple[int, ...], seed: int) -> Region:
    """Two balls around centres with zeros, in boxes that cut them; some entries are fixed."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(2, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    chance = lambda p: torch.rand(2, *shape, generator=generator) < p  # noqa: E731
    centre = torch.where(chance(0.4), 0.0, draw() * 10.0 ** (seed % 5 - 2))
    radius = torch.tensor([0.0, 1e-3, 1.0, 100.0], dtype=torch.float64)[[seed % 4, (seed + 2) % 4]]
    half = torch.where(chance(0.2), 0.0, draw().abs() * spread(radius, centre))
    half = torch.where(chance(0.5), spread(radius, centre), half)
    return Region(centre, centre - half, centre + half, radius)


def points_in(region: Region, pull: Tensor, seed: int) -> Tensor:
    """`[2, points, *shape]`: on the sphere where the box allows it, away from zero, by `pull`, and anywhere."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(12):
        noise = torch.randn(region.centre.shape, generator=generator, dtype=torch.float64)
        away = torch.where(region.centre == 0, noise.sign(), region.centre.sign())
        step = (away * pull, away * noise.abs(), noise)[number % 3] * (1 if number % 2 else (noise.abs() > 1))
        size = torch.linalg.vector_norm(flat(step), dim=1).clamp(min=1e-300)
        step = step * spread(region.radius / size, step)
        found.append(torch.maximum(torch.minimum(region.centre + step, region.upper), region.lower))
    return torch.stack(found, 1)


def pulls(block: Block) -> dict[Node, Tensor]:
    """For each source the direction in which sizes grow: `|A|* 1`."""
    one = torch.ones(1, *block.pre.shape, dtype=torch.float64)
    return {t.source: t.magnitude_adjoint(one) for t in block.terms}


@pytest.mark.parametrize("number", range(len(NETWORKS)))
@torch.no_grad()
def test_no_point_of_the_balls_has_longer_errors(number: int) -> None:
    make, seed = NETWORKS[number]
    program = lower(make(seed), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for place, block in enumerate(program.blocks):
        regions = {s: random_region(s.shape, 7 * seed + place + n) for n, s in enumerate(block.sources)}
        roundoff = errors_of(block, regions)
        pull = pulls(block)
        points = {s: points_in(r, pull[s], seed) for s, r in regions.items()}
        weights = torch.rand(2, *block.pre.shape, generator=generator, dtype=torch.float64).round(decimals=1)
        for which in range(12):
            error = at(block, {s: p[:, which] for s, p in points.items()})
            for w in (weights, torch.ones_like(weights)):
                found = torch.linalg.vector_norm(flat(error * w), dim=1) * (1 - 1e-12)
                for bound in (roundoff.length(w), balled(roundoff, w)):
                    assert bool((found <= bound)[torch.isfinite(found)].all()), block.label
            inside = (error <= roundoff.entrywise) | ~torch.isfinite(error)
            assert bool(inside.all()), block.label


def dense(*weights: Tensor, centre: Tensor, radius: float, dtype: torch.dtype = torch.float32) -> tuple[Block, Region]:
    """A block of dense layers one after the other, and a ball of its source without a box that cuts it."""
    node = apply(Input((weights[0].shape[1],), dtype))
    for weight in weights:
        node = apply(Linear(weight.to(dtype)), node)
    (block,) = lower(Network(node), dtype=torch.float64).blocks
    half = torch.full_like(centre, radius)
    return block, Region(centre, centre - half, centre + half, torch.full((len(centre),), radius, dtype=torch.float64))


def test_the_bound_is_met_where_sizes_grow_from_nothing() -> None:
    """Equal weights and a centre of zeros: the error at the farthest point is all further error."""
    for depth in (1, 2, 3):
        centre = torch.zeros(1, 40, dtype=torch.float64)
        block, region = dense(*[torch.ones(40, 40)] * depth, centre=centre, radius=2.0)
        roundoff = errors_of(block, {block.sources[0]: region})
        error = at(block, {block.sources[0]: centre + 2.0 / math.sqrt(40)})
        found, bound = float(torch.linalg.vector_norm(error)), float(balled(roundoff, torch.ones_like(error)))
        assert found <= bound <= 1.05 * found
        assert float(distance(roundoff.centre_error)) < 1e-6 * found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("flush", [False, True])
def test_measured_errors_far_from_a_centre_of_zeros_are_covered(order: str, flush: bool) -> None:
    """The centre errs nothing; a sum of 1000 like terms really loses much of what the bound allows."""
    centre = torch.zeros(1, 1000, dtype=torch.float64)
    block, region = dense(torch.full((8, 1000), 1 + 2**-12 + 2**-20), centre=centre, radius=40.0)
    (source,) = block.sources
    roundoff = errors_of(block, {source: region})
    point = torch.full((1, 1000), 1 + 2**-12)
    network = Network(block.pre)
    found = in_float32(network, point, ORDERS[order], flush=flush)[block.pre].double()
    wrong = float(torch.linalg.vector_norm(found - block.value({source: point.double()})))
    assert float(torch.linalg.vector_norm(point)) <= 40
    assert wrong <= float(roundoff.length(torch.ones_like(found)))
    if order == "as they stand":
        assert wrong > 100 * float(distance(roundoff.centre_error)), "so that the further error is needed"


@pytest.mark.parametrize("scale", [1e-30, 1e-37, 3e-39])
@pytest.mark.parametrize("flush", [False, True])
def test_subnormals_around_a_centre_of_zeros_are_covered(scale: float, flush: bool) -> None:
    for weight in (1.0, 1e-20, 3e-39, 1e20):
        centre = torch.zeros(1, 50, dtype=torch.float64)
        block, region = dense(torch.full((4, 50), weight), centre=centre, radius=scale * 8)
        (source,) = block.sources
        roundoff, point = errors_of(block, {source: region}), torch.full((1, 50), scale)
        for order in ORDERS.values():
            found = in_float32(Network(block.pre), point, order, flush=flush)[block.pre].double()
            wrong = float(torch.linalg.vector_norm(found - block.value({source: point.double()})))
            assert wrong <= float(balled(roundoff, torch.ones_like(found)))
            assert wrong <= float(roundoff.length(torch.ones_like(found)))


def test_a_cast_and_copies_of_what_is_zero_at_the_centre_alone() -> None:
    image = apply(Input((3,), torch.float64))
    parts = apply(Take(0, (0, 1, 2, 2, 2, 2)), apply(Pad(((1, 0),), 0.25), image))
    (block,) = lower(Network(cast(parts, torch.float32)), dtype=torch.float64).blocks
    (source,) = block.sources
    centre = torch.zeros(1, 3, dtype=torch.float64)
    roundoff = errors_of(block, {source: Region(centre, centre - 1.0, centre + 1.0, torch.ones(1).double())})
    for point in (centre + 0.1, centre + torch.tensor([[0.0, 0.9, 1e-40]]).double()):
        z = block.value({source: point})
        wrong = torch.linalg.vector_norm(z.float().double() - z)
        assert float(wrong) <= float(balled(roundoff, torch.ones_like(z)))
        assert bool(((z.float().double() - z).abs() <= roundoff.entrywise).all())
        assert bool((at(block, {source: point}) <= roundoff.entrywise).all())


def test_terms_that_are_zero_at_the_centre_round_elsewhere() -> None:
    """One large entry and many of 0: alone it is one term, which is added to nothing."""
    centre = torch.zeros(1, 50, dtype=torch.float64)
    centre[0, 7] = 1000.0
    block, region = dense(torch.ones(4, 50), centre=centre, radius=1e-3)
    roundoff = errors_of(block, {block.sources[0]: region})
    error = at(block, {block.sources[0]: centre + 1e-3 / math.sqrt(50)})
    assert float(torch.linalg.vector_norm(error)) <= float(balled(roundoff, torch.ones_like(error)))
    assert bool((error <= roundoff.entrywise).all())


@pytest.mark.parametrize("joined", [Add(), Concat(0)])
def test_branches_grow_together(joined: Add | Concat) -> None:
    """The same ball through two maps: at the farthest point both have grown."""
    image = apply(Input((30,)))
    network = Network(apply(joined, apply(Linear(torch.ones(30, 30)), image), image))
    (block,) = lower(network, dtype=torch.float64).blocks
    (source,) = block.sources
    centre = torch.zeros(1, 30, dtype=torch.float64)
    region = Region(centre, centre - 3.0, centre + 3.0, torch.full((1,), 3.0, dtype=torch.float64))
    roundoff = errors_of(block, {source: region})
    error = at(block, {source: centre + 3 / math.sqrt(30)})
    found = float(torch.linalg.vector_norm(error))
    assert found <= float(balled(roundoff, torch.ones_like(error))) <= 1.2 * found


def test_a_point_is_its_own_ball() -> None:
    centre = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block, region = dense(torch.ones(5, 20), torch.ones(4, 5), centre=centre, radius=0.0)
    roundoff = errors_of(block, {block.sources[0]: region})
    assert float(roundoff.further_error.max()) < 1e-300
    error = at(block, {block.sources[0]: centre})
    ones = torch.ones_like(error)
    torch.testing.assert_close(roundoff.length(ones), torch.linalg.vector_norm(error, dim=1), rtol=1e-6, atol=0)


def test_a_wide_box_costs_less_than_its_corner() -> None:
    """200 entries that are 0.1 off at most, but not all at once."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(2, 200, generator=generator, dtype=torch.float64) * 0.05
    block, region = dense(torch.randn(100, 200, generator=generator), centre=centre, radius=0.1)
    roundoff = errors_of(block, {block.sources[0]: region})
    ones = torch.ones(2, 100, dtype=torch.float64)
    assert bool((roundoff.length(ones) < 0.7 * distance(roundoff.error)).all())


@pytest.mark.parametrize("radius", [torch.inf, torch.nan])
def test_without_a_ball_the_box_alone_counts(radius: float) -> None:
    centre = torch.randn(1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block, region = dense(torch.ones(5, 20), centre=centre, radius=0.1)
    roundoff = errors_of(block, {block.sources[0]: replace(region, radius=torch.full((1,), radius).double())})
    ones = torch.ones(1, 5, dtype=torch.float64)
    assert torch.equal(roundoff.length(ones), distance(roundoff.error, ones))
    assert torch.equal(roundoff.entrywise, roundoff.error)


@pytest.mark.parametrize("end", [1e39, torch.inf, torch.nan])
def test_what_overflows_somewhere_has_no_length(end: float) -> None:
    """Though the centre is small and the ball too."""
    centre = torch.zeros(1, 4, dtype=torch.float64)
    block, region = dense(torch.full((2, 4), 1e-30), centre=centre, radius=1.0)
    upper = torch.tensor([[1.0, 1.0, 1.0, end]], dtype=torch.float64)
    roundoff = errors_of(block, {block.sources[0]: replace(region, upper=upper)})
    assert not bool((roundoff.length(torch.ones(1, 2, dtype=torch.float64)) < torch.inf).any())
    assert not bool((roundoff.entrywise < torch.inf).all())


def test_a_centre_that_is_nan_has_no_length() -> None:
    centre = torch.tensor([[0.0, torch.nan]], dtype=torch.float64)
    block, region = dense(torch.ones(2, 2), centre=centre, radius=1.0)
    roundoff = errors_of(block, {block.sources[0]: region})
    assert not bool((roundoff.length(torch.ones(1, 2, dtype=torch.float64)) < torch.inf).any())


def test_a_checkers_room_makes_no_length_smaller() -> None:
    for make, seed in NETWORKS[::4]:
        program = lower(make(seed), dtype=torch.float64)
        for block in program.blocks:
            regions = {s: random_region(s.shape, seed + n) for n, s in enumerate(block.sources)}
            tight, wide = (errors_of(block, regions, slack) for slack in (TIGHT, CheckerSlack(box)))
            ones = torch.ones_like(tight.error)
            least, most = balled(tight, ones), balled(wide, ones)
            assert bool((least <= most)[torch.isfinite(least)].all())


def test_further_error_counts_a_rounding_of_every_product_and_sum() -> None:
    """A diagonal of 2 with the R and K of lemma 3, by hand."""
    image = apply(Input((3,)))
    block, _ = lower(
        Network(apply(Linear(torch.eye(3)), apply(relu(), apply(Affine(torch.tensor(2.0)), image)))),
        dtype=torch.float64,
    ).blocks
    (found,) = further_error(block, {block.sources[0]: torch.tensor([5.0], dtype=torch.float64)}).tolist()
    roundings = 6 + 2 - 1  # of the product, and two terms, the offset among them
    assert found == pytest.approx(SINGLE.unit * roundings * 2 * 5, rel=1e-5)


def test_the_size_of_a_centre_is_zero_only_where_its_region_is() -> None:
    centre = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    region = Region(
        centre, centre, centre + torch.tensor([[0.0, 1e-300, 0.0]], dtype=torch.float64), torch.ones(1).double()
    )
    block, _ = dense(torch.ones(2, 3), centre=centre, radius=1.0)
    (source,) = block.sources
    sizes = BlockSizes.at_centre(block, {source: region}).sizes[source]
    assert sizes.tolist() == [[0.0, DOUBLE.tiny, 1.0]]
    assert torch.equal(sizes == 0, largest(region) == 0)
    assert np.isfinite(sizes.numpy()).all()
