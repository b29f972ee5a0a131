"""Proofs with their evidence: they prove nothing false, and all that they claim is there."""

from __future__ import annotations

import pytest
import torch
from proofs import points_of, prover
from random_graphs import random_image, random_network
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.choices import Choices, fixed, tightest
from llcert.bounds.backward.crown import Backward, BackwardBounds, differences
from llcert.certification.proof.attempts import Attempted, Objectives
from llcert.certification.proof.evidence import Proof, with_evidence
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.settings import Semantics
from llcert.ir import Input, Network, Node, apply
from llcert.ops import GroupSort, Linear, MaxPool, Sigmoid, Tanh, relu

from ...bounds.backward.test_branch_and_bound import dense, parts_of

HINTS = (
    ProofHint(local=False),
    ProofHint(local=True),
    ProofHint(local=True, backward=True),
    ProofHint(local=True, intermediate=True, backward=True),
)


def networks(count: int) -> list[tuple[Network, Tensor]]:
    """Random ones whose activations all have relaxations, as those of a certificate do, and an image each."""
    found = []
    for seed in range(200):
        network = random_network(seed)
        if not any(isinstance(n.op, Sigmoid | Tanh | MaxPool | GroupSort) for n in network.operators()):
            found.append((network, random_image(network, seed)))
    return found[:count]


@pytest.mark.parametrize("number", range(16))
def test_no_margin_with_evidence_is_above_one_that_a_point_shows(number: int) -> None:
    network, image = networks(16)[number]
    eps = (0.001, 0.02, 0.2)[number % 3]
    label, own = network(image).argmax(1), prover(network)
    points = points_of(image, eps * (1 - 1e-9), 300, number)
    logits = network(points)
    observed = (logits[:, int(label), None] - logits).amin(0)
    for hint in HINTS:
        proof = own.prove(image, label, hint, eps, evidence=True)
        margins = proof.margins[0].masked_fill(torch.arange(len(observed)) == label, -torch.inf)
        assert bool((margins <= observed + 1e-12).all())
        assert {j for j in range(len(margins)) if margins[j] > 0} == {j for _, j in proof.objectives}
        again(own, proof, label)


@torch.no_grad()
def again(own: Prover, proof: Proof, labels: Tensor) -> None:
    """The evidence alone gives a bound above 0 where it says that the objective stops, by float32 numbers."""
    backward = Backward(own.program)
    for (image, j), found in proof.objectives.items():
        trace = proof.regions.trace.select(torch.tensor([image]))
        rows = {own.program.output: differences(labels, own.program)[image, j].reshape(1, 1, -1)}
        assert all((c.slopes == c.slopes.float().double()).all() for c in found.choices.values())
        if found.choices:
            choices = {k: type(c)(c.slopes[None], c.lam[None]) for k, c in found.choices.items()}
            stops = _stops(backward, trace, rows, choices)
            assert float(stops[found.stop].lower) > 0
        else:
            assert float(backward.at_last_hidden(trace, rows[own.program.output]).lower) > 0


def _stops(backward: Backward, trace: Trace, rows: dict[Node, Tensor], choices: Choices) -> dict[Node, BackwardBounds]:
    """What is found at every stop; below that of the evidence, by other choices."""
    known = backward(trace, rows, tightest).linear.choices
    return backward.at_every_stop(trace, rows, fixed({**known, **choices}))


@torch.no_grad()
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_cover_is_as_good_as_its_worst_part(seed: int) -> None:
    """At a radius at which no cover can prove the margin, though many of its parts are above 0."""
    network = dense(seed)
    image = random_image(network, seed).double()
    label = network(image).argmax(1)
    backward, trace, rows, leaves = parts_of(network, image, label, 2.0)
    count, none = torch.arange(len(rows)), torch.zeros(len(rows), dtype=torch.int64)
    nothing = torch.zeros(len(rows), dtype=torch.float64)
    objectives = Objectives(trace.select(none), rows[:, None], none, count, nothing)
    worst = torch.stack([leaves.bounds[leaves.rows == row].amin() for row in count])
    bounds, found = with_evidence(backward, objectives, Attempted(count, worst, leaves=leaves), nothing)
    least = (network(points_of(image, 2.0, 2000, seed)) @ rows.T).amin(0)
    assert bool((bounds <= least.clamp(min=0) + 1e-9).all())
    assert {j for j in count.tolist() if bounds[j] > 0} == {j for _, j in found}


def test_the_proof_of_some_images_is_that_of_all() -> None:
    network, image = networks(1)[0]
    images = image + 0.05 * torch.randn(4, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    labels = network(images).argmax(1)
    proof = prover(network).prove(images, labels, HINTS[3], 0.001, evidence=True)
    some = proof.select(torch.tensor([3, 1]))
    assert torch.equal(some.margins, proof.margins[[3, 1]])
    assert {j for i, j in some.objectives if i == 0} == {j for i, j in proof.objectives if i == 3}
    assert some.regions.first is not None
    for node, box in some.regions.boxes.items():
        assert torch.equal(box.ends[0], proof.regions.boxes[node].ends[0][[3, 1]])


@pytest.mark.parametrize("seed", range(4))
def test_margins_with_evidence_pay_for_every_rounding(seed: int) -> None:
    """Where every neuron is active, the row down to the image gives the least value itself, up to float64."""
    generator, eps = torch.Generator().manual_seed(seed), 0.1
    inner, outer, image = (torch.rand(n, 3, generator=generator, dtype=torch.float64) for n in (3, 3, 1))
    image, apart = image + 1, (outer[:1] - outer) @ inner
    moved = eps * torch.linalg.vector_norm(apart, dim=1)
    hidden = apply(relu(), apply(Linear(inner, None), apply(Input((3,), torch.float64))))
    network = Network(apply(Linear(outer, (image @ apart.T)[0] - 1.01 * moved), hidden))
    proof = prover(network, Semantics.REAL).prove(image, torch.tensor([0]), HINTS[2], eps, evidence=True)
    assert {(0, 1), (0, 2)} <= set(proof.objectives)
    assert bool((proof.margins[0] <= 0.01 * moved + 1e-14)[1:].all())


def test_there_is_no_evidence_of_liplt() -> None:
    network, image = networks(1)[0]
    own = prover(network)
    with pytest.raises(ValueError, match="no evidence of LipLT"):
        own.prove(image, network(image).argmax(1), ProofHint(local=False, liplt=True), 0.01, evidence=True)
