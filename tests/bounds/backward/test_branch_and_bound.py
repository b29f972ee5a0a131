"""Branch and bound: parts cover the ball, and no bound on a part is above what points of it show."""

from __future__ import annotations

import pytest
import torch
from proofs import points_of, prover
from random_graphs import random_image, random_network
from torch import Tensor

from llcert.bounds import Trace, VerifiedArithmetic, propagate
from llcert.bounds.backward.alpha import Ascent
from llcert.bounds.backward.branch_and_bound import BranchAndBound, Leaves, _put, bounded, with_splits
from llcert.bounds.backward.choices import tightest
from llcert.bounds.backward.crown import Backward, differences
from llcert.bounds.forward.outward import enclosing_ball
from llcert.certification import Assurance, BoundsSoFar, Certifier, Settings, Verdict
from llcert.certification.proof.attempts import Objectives, branched
from llcert.certification.proof.hint import BranchCover
from llcert.ir import Input, Network, apply
from llcert.ops import Conv, Linear, MaxMin, Reshape, Sigmoid, relu

QUICK = BranchAndBound(seconds=2.0, width=4, ascent=Ascent(steps=4, rate=0.05))


def dense(seed: int, phi: object = None, width: int = 6) -> Network:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((3,)))
    for before, after in ((3, width), (width, width)):
        weight, bias = torch.randn(after, before, generator=generator), torch.randn(after, generator=generator) / 4
        node = apply(phi or relu(), apply(Linear(weight / before**0.5, bias), node))  # type: ignore[arg-type]
    return Network(apply(Linear(torch.randn(3, width, generator=generator)), node))


def parts_of(network: Network, image: Tensor, label: Tensor, eps: float) -> tuple[Backward, Trace, Tensor, Leaves]:
    made = prover(network)
    trace = propagate(made.program, enclosing_ball(image, eps), VerifiedArithmetic(made.global_bound, made.solver))
    backward = Backward(made.program)
    rows = differences(label, made.program)[0]
    rows = rows[torch.arange(len(rows)) != int(label)]
    return backward, trace, rows, QUICK(backward, trace, rows)


@pytest.mark.parametrize("phi", [relu(), MaxMin()], ids=["relu", "maxmin"])
@pytest.mark.parametrize("seed", range(4))
def test_every_point_lies_in_a_part_of_each_row_and_above_its_bound(seed: int, phi: object) -> None:
    network, eps = dense(seed, phi), 0.4
    image = random_image(network, seed).double()
    label = network(image).argmax(1)
    backward, trace, rows, leaves = parts_of(network, image, label, eps)
    points = points_of(image, eps, 400, seed=seed)
    values = network(points) @ rows.T  # [points, rows]
    steps = with_splits(backward, trace.select(torch.zeros_like(leaves.rows)), leaves.splits)
    covered = torch.zeros(len(points), len(rows), dtype=torch.bool)
    whose = {backward.program.output: rows[leaves.rows][:, None]}
    enough = torch.zeros_like(leaves.bounds)
    again = bounded(backward, trace.select(torch.zeros_like(leaves.rows)), whose, leaves, Ascent(steps=2), enough)
    for leaf in range(len(leaves)):
        inside = torch.ones(len(points), dtype=torch.bool)
        known = {backward.program.input: points}
        for block in backward.program.blocks:
            z = block.value(known)
            known[block.node] = z if block.activation is None else block.activation(z)
            if block.activation is None:
                continue
            for number, step in enumerate(steps.relaxations(block) or ()):
                low, high = (end[leaf] for end in leaves.splits[backward.program.blocks.index(block), number])
                entries = z if step.zone.lower[0].shape == z[0].shape else _halves(block.activation, z)
                inside = inside & ((entries >= low) & (entries <= high)).flatten(1).all(1)
        row = int(leaves.rows[leaf])
        covered[:, row] |= inside
        if inside.any():
            assert max(leaves.bounds[leaf], again.bounds[leaf]) <= values[inside, row].min() + 1e-9
    assert covered.all()


@pytest.mark.parametrize("phi", [relu(), MaxMin()], ids=["relu", "maxmin"])
@pytest.mark.parametrize("seed", range(4))
def test_what_parts_prove_together_no_point_of_the_ball_contradicts(seed: int, phi: object) -> None:
    """At a radius where margins are below zero: the worst part counts, and no part of the ball is left out."""
    network, eps = dense(seed, phi), 0.8
    image = random_image(network, seed).double()
    label = network(image).argmax(1)
    backward, trace, rows, leaves = parts_of(network, image, label, eps)
    none = torch.zeros(len(rows), dtype=torch.int64)
    classes = torch.arange(len(rows) + 1)[torch.arange(len(rows) + 1) != int(label)]
    enough = torch.zeros(len(rows), dtype=torch.float64)
    objectives = Objectives(trace.select(none), rows[:, None], none, classes, enough)
    found = branched(BranchCover(none, classes, leaves), Ascent(steps=4), backward, objectives).bounds
    values = network(points_of(image, eps, 2000, seed=seed)) @ rows.T
    assert bool(torch.isfinite(found).all())
    assert bool((found <= values.amin(0) + 1e-9).all())


def _halves(phi: object, z: Tensor) -> Tensor:
    assert isinstance(phi, MaxMin)
    a, b = phi.split(z)
    return a - b


@pytest.mark.parametrize("seed", range(4))
def test_a_search_never_does_worse_than_where_it_starts(seed: int) -> None:
    network = dense(seed)
    image = random_image(network, seed).double()
    label = network(image).argmax(1)
    backward, trace, rows, leaves = parts_of(network, image, label, 0.3)
    start = backward(
        trace.select(torch.zeros(len(rows), dtype=torch.int64)), {backward.program.output: rows[:, None]}, tightest
    ).lower
    worst = torch.stack([leaves.bounds[leaves.rows == r].min() for r in range(len(rows))])
    root = torch.where(worst > 0, torch.minimum(start[:, 0], worst), start[:, 0])
    assert (worst >= root - 1e-6).all()
    again = torch.zeros_like(leaves.rows)
    own = {backward.program.output: rows[leaves.rows][:, None]}
    enough = torch.zeros_like(leaves.bounds)
    repeated = bounded(backward, trace.select(again), own, leaves, Ascent(steps=1), enough).bounds
    assert (repeated[leaves.bounds > 0] > 0).all()


def test_the_stage_proves_what_the_backward_pass_leaves_and_nothing_false() -> None:
    network, eps = dense(4, width=8), 0.3
    images = torch.rand(8, 3, generator=torch.Generator().manual_seed(4))[[0, 3, 6, 7]]
    labels, stages = network(images).argmax(1), ("global", "local", "crown-ball", "branch")
    certifier = Certifier.of(network, Settings(eps, stages=stages, branch_seconds=600.0))  # it ends once all is proved
    for sample in certifier(images, labels, torch.arange(4)).samples:
        assert (sample.verdict, sample.stage) == (Verdict.CERTIFIED, "branch")
        points = points_of(images[sample.index : sample.index + 1].double(), eps, 500, seed=1)
        assert (network(points).argmax(1) == sample.label).all()


def test_networks_without_a_knot_have_nothing_to_cut() -> None:
    network = dense(0, Sigmoid())
    image = random_image(network, 0).double()
    *_, leaves = parts_of(network, image, network(image).argmax(1), 2.0)
    assert len(leaves) == 2


def test_some_random_graphs_are_branched_without_complaint() -> None:
    for seed in range(6):
        network = random_network(seed)
        image = random_image(network, seed).double()
        parts_of(network, image, network(image).argmax(1), 0.05)


def test_places_are_those_of_the_flattened_values_however_they_lie() -> None:
    """Images are laid out channels last on processors."""
    values = torch.zeros(2, 3, 4).permute(2, 0, 1)
    for entry in (0, 5, 23):
        _put(values, entry, torch.tensor(1.0))
        assert values.flatten()[entry] == 1
    assert values.sum() == 3


def test_branches_of_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    node = apply(Conv(torch.randn(4, 3, 3, 3, generator=generator) / 3, None, (1, 1), (1, 1)), apply(Input((3, 5, 5))))
    flat = apply(Reshape((100,)), apply(relu(), node))
    network = Network(apply(Linear(torch.randn(3, 100, generator=generator) / 10), flat))
    images = torch.rand(6, 3, 5, 5, generator=generator)
    settings = Settings(0.5, stages=("local", "branch"), branch_seconds=0.3)
    samples = Certifier.of(network, settings)(images, network(images).argmax(1), torch.arange(6)).samples
    assert any(s.stage == "branch" or s.verdict is Verdict.UNDECIDED for s in samples)


def test_parts_keep_their_cuts_when_others_leave_the_ascent() -> None:
    network, eps = dense(1, width=10), 0.8
    image = random_image(network, 1).double()
    backward, trace, rows, leaves = parts_of(network, image, network(image).argmax(1), eps)
    own = with_splits(backward, trace.select(torch.zeros_like(leaves.rows)), leaves.splits)
    carried = {backward.program.output: rows[leaves.rows][:, None]}
    ascent = Ascent(steps=12)
    with torch.no_grad():
        together, _ = ascent(backward, own, carried, leaves.choices)
        enough = together.median()
        parted, _ = ascent(backward, own, carried, leaves.choices, enough=enough)
    stay = together <= enough
    assert stay.any()
    assert not stay.all()
    torch.testing.assert_close(parted[stay], together[stay], rtol=1e-12, atol=1e-12)


def test_what_the_closed_form_hardly_proves_is_not_lost_where_time_runs_out() -> None:
    network = dense(2)
    image = random_image(network, 2).float()
    label, index = network(image).argmax(1), torch.tensor([0])
    eps = 0.4366
    settings = Settings(eps, stages=("branch",), assurance=Assurance.ESTIMATE, branch_seconds=1e-6)
    certifier = Certifier.of(network, settings)
    backward = Backward(certifier.program)
    trace, _ = certifier.estimator.refined(certifier.batch(image, label, index), BoundsSoFar.none(certifier.program, 1))
    closed = certifier.estimator.specification.margin(
        backward.closed_form(trace, differences(label, certifier.program)), label, 3
    )
    assert 0 < float(closed) < BranchAndBound().enough(backward, trace)
    (sample,) = certifier(image, label, index).samples
    assert sample.verdict is Verdict.CERTIFIED
    assert sample.margin is not None
    assert sample.margin >= float(closed)
