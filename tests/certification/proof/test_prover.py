"""The prover: its margins hold at every point, in real numbers and in float32, and it refuses what is no proof."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import batch_of, decided
from proofs import ORDERS, in_float32, points_of, prover
from random_graphs import in_format, random_image, random_network
from torch import Tensor

from llcert.bounds import RowWeighting, VerifiedArithmetic, global_bound, propagate
from llcert.bounds.backward.alpha import Ascent
from llcert.bounds.backward.choices import tightest
from llcert.bounds.backward.crown import Backward, differences
from llcert.bounds.backward.intermediate import Colorings
from llcert.bounds.forward.outward import enclosing_ball
from llcert.certification import Assurance, Estimator, Global, Settings
from llcert.certification.proof.build import provers_of
from llcert.certification.proof.hint import FixedRelaxation, ProofHint
from llcert.certification.proof.proved_stage import ProvedStage
from llcert.certification.settings import Semantics
from llcert.certification.specification import FIRST, positive
from llcert.ir import Input, Network, apply, place
from llcert.ops import Linear, MaxMin, relu
from llcert.program import lower
from llcert.spectral import RandomLanczos, Side

HINTS = (
    ProofHint(local=False),
    ProofHint(local=True),
    ProofHint(local=True, weighting=RowWeighting.SECANT),
    ProofHint(local=True, backward=True),
    ProofHint(local=False, backward=True),
)


def dense(seed: int = 0, width: int = 6, classes: int = 3, dtype: torch.dtype = torch.float32) -> Network:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((4,), dtype))
    for number, (before, after) in enumerate(((4, width), (width, width), (width, classes))):
        weight = torch.randn(after, before, generator=generator) / before**0.5
        node = apply(Linear(weight, torch.randn(after, generator=generator) / 2), node)
        node = apply(relu() if number == 0 else MaxMin(), node) if number < 2 else node
    return Network(node)


def batch(network: Network, count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, *network.input.shape, generator=torch.Generator().manual_seed(seed))
    return images, network(images).argmax(1)


def observed(logits: Tensor, label: int) -> Tensor:
    """The least margins over every other class that points show, `[classes]`; infinite for the label itself."""
    margins = (logits[:, label, None] - logits).amin(0)
    margins[label] = torch.inf
    return margins


@pytest.mark.parametrize("semantics", Semantics)
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.05, 0.5])
def test_margins_hold_at_every_point(semantics: Semantics, eps: float) -> None:
    for seed in range(4):
        network = dense(seed)
        images, labels = batch(network)
        own = prover(network, semantics)
        for hint in HINTS:
            margins = own(images, labels, hint, eps)
            for i, label in enumerate(labels.tolist()):
                points = points_of(images[i : i + 1], eps * (1 - 1e-9), 200, seed)
                assert bool((margins[i] <= observed(network(points), label) + 1e-14).all()), hint


@pytest.mark.parametrize("seed", range(12))
def test_margins_hold_in_float32_whatever_the_order_of_sums(seed: int) -> None:
    network = in_format(random_network(seed), torch.float32)
    image = random_image(network, seed).float()
    label, eps = network(image).argmax(1), [1e-7, 1e-3][seed % 2]
    points = points_of(image, eps * (1 - 1e-6), 30, seed).float()
    inside = torch.linalg.vector_norm((points.double() - image.double()).flatten(1), dim=1) <= eps
    points = torch.cat([image, points[inside]])
    margins = prover(network)(image, label, ProofHint(local=True, backward=True), eps)[0]
    for order in (None, *ORDERS.values()):
        for flush in (False, True):
            logits = in_float32(network, points, order, flush=flush)[network.output].double()
            assert bool((margins <= observed(logits, int(label))).all())


def test_float32_costs_something_and_little() -> None:
    network = dense()
    images, labels = batch(network)
    real, single = (prover(network, s)(images, labels, HINTS[3], 0.01) for s in (Semantics.REAL, Semantics.DEPLOYED))
    others = torch.nn.functional.one_hot(labels, 3) == 0
    assert bool((single < real)[others].all())
    assert bool((single > real - 1e-4)[others].all())


def test_more_work_never_proves_less() -> None:
    network = dense()
    images, labels = batch(network, 8)
    unmasked, local, secant, backward, _ = (prover(network)(images, labels, p, 0.2) for p in HINTS)
    assert bool((local >= unmasked - 1e-9).all())
    assert bool((backward >= local).all())
    assert secant.shape == local.shape


def test_what_global_norms_leave_open_is_carried_down() -> None:
    """Norms that are proved loosely, as rounding makes radii larger: rows on their way down need less of them."""
    network, eps = dense(width=20), 0.05
    images, labels = batch(network, 60)
    program, own = lower(network), prover(network)
    loose = replace(
        own, global_bound=replace(own.global_bound, norms={t: 1.3 * n for t, n in own.global_bound.norms.items()})
    )
    stage, asked = Global(Estimator(program, global_bound(program))), batch_of(images, labels, eps)
    estimated = decided(stage, program, asked)
    assert estimated.hints[-1] == ProofHint(local=False, backward=True)
    found = decided(ProvedStage(stage, loose, Assurance.DETERMINISTIC, {}), program, asked)
    plain = positive(FIRST.margin(loose(images, labels, HINTS[0], eps), labels, 3)) & estimated.decided
    assert bool((found.decided >= plain).all())
    assert int(estimated.decided.sum()) >= int(found.decided.sum()) > int(plain.sum())


def test_no_room_proves_the_margins_of_the_image() -> None:
    network = dense()
    images, labels = batch(network)
    margins = prover(network, Semantics.REAL)(images, labels, HINTS[1], 0.0)
    logits = network(images.double())
    expected = logits.gather(1, labels[:, None]) - logits
    others = torch.nn.functional.one_hot(labels, 3) == 0
    torch.testing.assert_close(margins[others], expected[others], atol=1e-12, rtol=0)
    assert bool(torch.isinf(margins[~others]).all())


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_image_proves_nothing(broken: float) -> None:
    network = dense()
    images, labels = batch(network)
    images[0, 1] = broken
    for hint in HINTS:
        margins = prover(network)(images, labels, hint, 0.01)
        assert not bool(positive(margins[0].amin()))
        assert bool(margins[1:].isfinite().any()), "the others are not disturbed"


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("semantics", Semantics)
def test_broken_weights_prove_nothing(broken: float, semantics: Semantics) -> None:
    for number in (0, 1, 2):
        network = dense()
        layers = [n.op for n in network.operators() if isinstance(n.op, Linear)]
        layers[number].weight[0, 0] = broken
        images, labels = batch(network)
        for hint in HINTS:
            assert not bool(positive(prover(network, semantics)(images, labels, hint, 0.0).amin(1)).any())


def test_what_an_ascent_found_is_proved_again() -> None:
    network = dense(3)
    images, labels = batch(network, 6)
    own = prover(network)
    with torch.no_grad():
        trace = propagate(
            own.program, enclosing_ball(images.double(), 0.2), VerifiedArithmetic(own.global_bound, own.solver)
        )
        directions = differences(labels, own.program)
        rows = {own.program.output: directions.flatten(0, 1)[:, None]}
        image = torch.arange(6).repeat_interleave(3)
        start = Backward(own.program)(trace.select(image), rows, tightest).linear.choices
        found, choices = Ascent(steps=10)(Backward(own.program), trace.select(image), rows, start)
    relaxation = FixedRelaxation(image, torch.arange(3).repeat(6), choices)
    hint = ProofHint(local=True, backward=True, relaxation=relaxation)
    margins = own(images, labels, hint, 0.3)
    assert bool((margins >= own(images, labels, HINTS[3], 0.3)).all())
    others = (torch.nn.functional.one_hot(labels, 3) == 0).flatten()
    reached = (margins.flatten() > 0) | (margins.flatten() >= found[:, 0] - 1e-4)  # what is proved is left alone
    assert bool(reached[others].all())
    positions = torch.tensor([4, 1])
    some = own(images[positions], labels[positions], hint.select(positions), 0.3)
    torch.testing.assert_close(some, margins[positions], atol=1e-9, rtol=1e-9)


def test_silly_choices_of_an_ascent_prove_no_more_than_is_true() -> None:
    network = dense(2)
    images, labels = batch(network, 4)
    own = prover(network)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            trace = propagate(
                own.program, enclosing_ball(images.double(), 0.2), VerifiedArithmetic(own.global_bound, own.solver)
            )
            image, row = torch.arange(4), (labels + 1) % 3
            rows = {own.program.output: differences(labels, own.program)[image, row][:, None]}
            start = Backward(own.program)(trace, rows, tightest).linear.choices
        choices = {
            k: replace(
                c,
                slopes=torch.randn(c.slopes.shape, generator=generator) * 3,
                lam=torch.rand(c.lam.shape, generator=generator) * 10,
            )
            for k, c in start.items()
        }
        margins = own(
            images, labels, ProofHint(True, backward=True, relaxation=FixedRelaxation(image, row, choices)), 0.2
        )
        for i, label in enumerate(labels.tolist()):
            logits = network(points_of(images[i : i + 1], 0.2 * (1 - 1e-9), 300, seed))
            assert bool((margins[i] <= observed(logits, label) + 1e-14).all())


def test_norms_that_are_only_probable_do_not_pass_for_proved() -> None:
    network = dense()
    images, labels = batch(network)
    wrong = replace(prover(network), solver=RandomLanczos())
    with pytest.raises(ValueError, match="probable"):
        wrong(images, labels, HINTS[1], 0.1)
    assert wrong(images, labels, HINTS[0], 0.1).isfinite().any(), "unmasked norms are proved"


def test_every_assurance_below_the_one_asked_has_a_prover() -> None:
    for assurance, expected in (
        (Assurance.DETERMINISTIC, {Assurance.DETERMINISTIC, Assurance.PROBABILISTIC}),
        (Assurance.PROBABILISTIC, {Assurance.PROBABILISTIC}),
    ):
        found = provers_of(
            dense(), Colorings(lower(dense(), dtype=torch.float64)), Settings(0.1, assurance=assurance), ()
        )
        assert set(found) == expected
        assert {p.side for p in found.values()} <= {Side.UPPER, Side.PROBABLE}


def test_a_value_has_its_own_format_whatever_its_parameters_are_stored_in() -> None:
    network, wide = dense(), dense(dtype=torch.float64)
    stored = Network(place(network.output, "cpu", torch.float64))
    images, labels = batch(network)
    single, again, double = (prover(n)(images, labels, HINTS[0], 0.01) for n in (network, stored, wide))
    others = single.isfinite()
    assert others.any()
    assert torch.equal(single[others], again[others])
    gained = (double - single)[others]
    assert bool(((gained > 1e-8) & (gained < 1e-4)).all())
