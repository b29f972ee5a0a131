"""The one propagation against the two it replaced, bit for bit, on random networks; goes when a campaign has passed."""

from __future__ import annotations

import itertools

import pytest
import torch
from mixed import mixed
from oracles import constants
from oracles.enclose import Frame, enclose
from oracles.estimate import propagate as estimate
from oracles.traces import Trace as Old
from random_graphs import random_image, random_network
from shared_graphs import shared_network
from torch import Tensor

from llcert import ops
from llcert.bounds import (
    TIGHT,
    Balls,
    CheckerSlack,
    EstimatedArithmetic,
    GlobalBound,
    RowWeighting,
    Start,
    Trace,
    VerifiedArithmetic,
    global_bound,
    propagate,
)
from llcert.bounds.backward.crown import Backward
from llcert.bounds.backward.intermediate import Colorings, intermediate_bounds
from llcert.bounds.forward.box import box
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.bounds.global_lipschitz.stacked import KnownNorms
from llcert.bounds.liplt import Composed
from llcert.domain.region import Region, ball
from llcert.ir import Network
from llcert.program import Program, Term, lower
from llcert.spectral import Lanczos, PowerIteration, RandomLanczos, VerifiedCholesky

EPS = [0.0, 1e-3, 0.1, 1.0]


def mixed_network(seed: int) -> Network:
    """A random network whose values have different number formats."""
    return mixed(random_network(seed), seed)


NETWORKS = [(random_network, seed) for seed in range(24)]
NETWORKS += [(make, seed) for make in (shared_network, mixed_network) for seed in range(16)]
OPERATORS = [ops.Add, ops.Affine, ops.BatchNorm, ops.Cast, ops.Clamp, ops.Concat, ops.Conv, ops.ConvTranspose]
OPERATORS += [ops.Divide, ops.Expand, ops.GroupSort, ops.Leaky, ops.Linear, ops.MaxMin, ops.MaxPool, ops.Pad]
OPERATORS += [ops.Reduce, ops.Reshape, ops.Sigmoid, ops.SumPool, ops.Take, ops.Tanh, ops.Transpose]


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(nan=-7.5), other.nan_to_num(nan=-7.5)) and one.shape == other.shape


def regions_agree(one: Region, other: Region) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(same(a, b) for a, b in pairs)


def agree(program: Program, new: Trace, old: Old) -> None:
    """Every field of a trace, bit for bit."""
    assert set(new.post_activation) == set(old.post_activation)
    for node, hidden in new.post_activation.items():
        assert regions_agree(hidden.region, old.post_activation[node].region)
        assert torch.equal(hidden.varying, old.post_activation[node].varying)
    for block in program.blocks:
        assert regions_agree(new.pre_activation[block.node], old.pre_activation[block.node]), block.label
        pairs = zip(new.weighted[block.node], old.weighted[block.node], strict=True)
        assert all(same(a, b) for a, b in pairs), block.label
    assert set(new.norms) == set(old.norms)
    assert all(same(norm.value, old.norms[term].value) for term, norm in new.norms.items())
    assert set(new.lipschitz) == set(old.lipschitz)
    assert all(same(value, old.lipschitz[node]) for node, value in new.lipschitz.items())
    assert (new.logit_lipschitz is None) == (old.logit_lipschitz is None)


def errors_agree(program: Program, new: Trace, old: Old, *, liplt: bool) -> None:
    assert new.roundoff is not None
    assert old.roundoff is not None
    for block in program.blocks:
        node, mine, known = block.node, new.roundoff[block.node], old.roundoff
        assert same(mine.size, known.sizes[node])
        assert same(mine.total, known.totals[node])
        assert same(mine.error, known.errors[node])
        changed = mine.activation_error
        assert same(changed, known.after[node]) if block.activation else not bool((changed != 0).any())
        assert not liplt or same(mine.slip, known.slips[node])
        assert (node in new.joint) == (node in old.joint)
        if node in new.joint:
            assert same(new.joint[node].value, old.joint[node][0])
            assert same(new.joint[node].weights.T, old.joint[node][1])


def network_of(number: int) -> tuple[Network, Tensor, float]:
    make, seed = NETWORKS[number]
    network = make(seed)
    images = torch.cat([random_image(network, seed + n) for n in range(2)])
    return network, images.float(), EPS[seed % len(EPS)]


def constants_agree(new: GlobalBound, old: GlobalBound) -> None:
    for mine, known in ((new.norms, old.norms), (new.vectors, old.vectors), (new.lipschitz, old.lipschitz)):
        assert set(mine) == set(known)
        # the norm of an activation of the image itself lost its slope to the map of LipLT
        compared = [key for key in mine if not (isinstance(key, Term) and not key.nodes)]
        assert all(same(mine[key], known[key]) for key in compared)
    assert (new.pairs is None) == (old.pairs is None)
    assert new.pairs is None or same(new.pairs, old.pairs)


@pytest.mark.parametrize("number", range(len(NETWORKS)))
@torch.no_grad()
def test_global_constants_are_what_they_were(number: int) -> None:
    network, _, _ = network_of(number)
    program, coarse = (lower(network, dtype=dtype) for dtype in (torch.float64, torch.float32))
    for composed in (None, Composed.of(program)):
        new, old = (
            proved_bound(program, VerifiedCholesky(), composed),
            constants.proved_bound(program, VerifiedCholesky(), composed),
        )
        constants_agree(new, old)
    loops = Composed.of(coarse)
    constants_agree(global_bound(coarse, seed=3), constants.global_bound(coarse, seed=3))
    first = global_bound(coarse, PowerIteration(cap=2), joint=False, crude=False, composed=loops)
    constants_agree(
        first, constants.global_bound(coarse, PowerIteration(cap=2), joint=False, crude=False, composed=loops)
    )
    looped = [t for maps in (loops.maps.values() if loops is not None else ()) for t in maps.values()]
    starts, known = first.vectors, {t: (first.norms[t], first.vectors[t]) for t in looped[-2:]}
    for solver in (Lanczos(vectors=True), PowerIteration(cap=3)):
        new = global_bound(coarse, solver, starts=starts, composed=loops, known=KnownNorms(known, {}))
        constants_agree(new, constants.global_bound(coarse, solver, starts=starts, composed=loops, known=known))


@pytest.mark.parametrize("number", range(len(NETWORKS)))
@torch.no_grad()
def test_proofs_are_what_they_were(number: int) -> None:
    network, images, eps = network_of(number)
    program = lower(network, dtype=torch.float64)
    composed = Composed.of(program) if number % 2 else None
    bound = proved_bound(program, VerifiedCholesky(), composed)
    deployed, slack = number // 2 % 2 == 0, number // 4 % 2 == 0
    region = enclosing_ball(images.double(), eps, deployed=program.input.rounding if deployed else None)
    frame, checker = (Frame(box), CheckerSlack(box)) if slack else (None, TIGHT)
    for solver, weighting in itertools.product((RandomLanczos, VerifiedCholesky, lambda: None), RowWeighting):
        arithmetic = VerifiedArithmetic(bound, solver(), deployed, checker)
        new = propagate(program, region, arithmetic, weighting=weighting)
        old = enclose(program, region, bound, solver(), weighting=weighting, deployed=deployed, frame=frame)
        agree(program, new, old)
        errors_agree(program, new, old, liplt=composed is not None)
    found = intermediate_bounds(Backward(program), new, Colorings(program).by_block)
    boxes = {node: bounds.ends for node, bounds in found.items()}
    new = propagate(program, region, arithmetic, boxes=boxes)
    old = enclose(program, region, bound, None, boxes=boxes, deployed=deployed, frame=frame)
    agree(program, new, old)


@pytest.mark.parametrize("number", range(len(NETWORKS)))
def test_estimates_are_what_they_were(number: int) -> None:
    network, images, eps = network_of(number)
    dtype = (torch.float32, torch.float64)[number % 2]
    program = lower(network, dtype=dtype)
    region, seeds = ball(images.to(dtype), eps), torch.tensor([3, 8])
    with torch.no_grad():
        bound = global_bound(program, Lanczos(tolerance=1e-4, vectors=True))
        for balls, weighting in itertools.product(Balls, RowWeighting):
            for start, solver, joint in ((Start.UNMASKED, Lanczos(), True), (Start.RANDOM, PowerIteration(), False)):
                known = None if balls is Balls.BOX else bound
                arithmetic = EstimatedArithmetic(known, balls, solver, start, None, seeds, joint)
                new = propagate(program, region, arithmetic, weighting=weighting)
                old = estimate(
                    program,
                    region,
                    known,
                    balls=balls,
                    weighting=weighting,
                    solver=solver,
                    start=start,
                    seed=seeds,
                    joint=joint,
                )
                agree(program, new, old)


def test_the_networks_have_every_kind_of_operator() -> None:
    made = {type(n.op) for number in range(len(NETWORKS)) for n in network_of(number)[0].operators()}
    assert made >= set(OPERATORS)
