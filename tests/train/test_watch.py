"""What a watch sees of held-out images, against the public certification of the same network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from attacks import attacked
from torch import Tensor
from toys import TOYS, toy, toy_batch

import llcert
import llcert_train.watch
from llcert.bounds import EstimatedArithmetic, LastLayer, RowWeighting, global_bound, propagate, worst_margins
from llcert.certification import PGD
from llcert.certification.verdict import Verdict
from llcert.domain.region import ball
from llcert.ir import Network
from llcert.program import lower
from llcert.reporting import Report
from llcert.spectral import PowerIteration
from llcert_train.metrics import HeldOut
from llcert_train.watch import Watch
from llcert_train.weights import Weights

COUNT = 30
TIGHT = PowerIteration(tolerance=1e-6, cap=20000)
SLACK = 0.01
"""How far, relatively, iterations that stop at 1e-3 may lie from those that stop at 1e-6."""


def watched(network: Network, images: Tensor, labels: Tensor, eps: float, *, steps: int = 20) -> Watch:
    weights = Weights.of(network, "cpu")
    program = lower(weights.network, dtype=network.dtype)
    return Watch(program, images, labels, eps, steps, 0)


def held_out(network: Network, seed: int) -> tuple[Tensor, Tensor]:
    """Images that float32 holds too, and labels of which some are wrong."""
    images, labels = toy_batch(network, COUNT, seed)
    labels[5:8] = (labels[5:8] + 1) % network.classes
    return images.float().double(), labels


def certify(network: Network, images: Tensor, labels: Tensor, eps: float, *stages: str) -> Report:
    return llcert.certify(network, (images, labels), eps, stages=stages or None, self_check=False)


def share(report: Report, *verdicts: Verdict) -> float:
    return sum(s.verdict in verdicts for s in report.samples) / len(report.samples)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("eps", [0.03, 0.2])
def test_it_says_what_a_certification_says(name: str, eps: float) -> None:
    network = toy(name, 1)
    images, labels = held_out(network, 1)
    held = watched(network, images, labels, eps)({})
    local, all_stages = certify(network, images, labels, eps, "local"), certify(network, images, labels, eps)
    assert held.images == COUNT
    assert held.clean_accuracy == pytest.approx(1 - share(local, Verdict.MISCLASSIFIED), abs=1e-12)
    assert held.certified_accuracy is not None
    assert held.attacked_accuracy is not None
    assert held.certified_accuracy <= share(local, Verdict.CERTIFIED) <= share(all_stages, Verdict.CERTIFIED)
    assert held.certified_accuracy <= held.attacked_accuracy <= held.clean_accuracy
    assert share(all_stages, Verdict.CERTIFIED) <= held.attacked_accuracy
    assert held.global_lipschitz == pytest.approx(local.subject.global_lipschitz, rel=SLACK)
    assert held.local_lipschitz == pytest.approx(local.local_lipschitz_mean, rel=SLACK)
    assert [(x.name, x.operator) for x in held.layers] == [(x.name, x.operator) for x in local.subject.layers]
    for mine, theirs in zip(held.layers, local.subject.layers, strict=True):
        assert mine.global_norm == pytest.approx(theirs.global_norm, rel=SLACK)


def by_hand(watch: Watch) -> tuple[Tensor, Tensor, Tensor]:
    """Margins, logits and local norms by the 0/1 masks alone, with norms that have converged."""
    with torch.no_grad():
        bound = global_bound(watch.program, TIGHT)
        trace = propagate(
            watch.program,
            ball(watch.images, watch.eps),
            EstimatedArithmetic(bound, solver=TIGHT),
            weighting=RowWeighting.SLOPE,
        )
        logits = watch.program.logits(watch.images)
        margins = worst_margins(logits, watch.labels, LastLayer.of(watch.program), trace.post_activation)
    assert trace.logit_lipschitz is not None
    return margins.amin(1), logits, trace.logit_lipschitz


@pytest.mark.parametrize("name", TOYS)
def test_certified_is_by_equation_6(name: str) -> None:
    network, eps = toy(name, 2), 0.1
    images, labels = held_out(network, 2)
    watch = watched(network, images, labels, eps)
    held = watch({})
    margins, logits, lipschitz = by_hand(watch)
    blurred = SLACK * (logits.amax(1) - logits.amin(1) + margins.abs())
    certain, open_ = int((margins > blurred).sum()), int((margins.abs() <= blurred).sum())
    assert held.certified_accuracy is not None
    assert certain <= round(held.certified_accuracy * COUNT) <= certain + open_
    assert open_ < COUNT / 4
    assert held.clean_loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-9)
    assert held.local_lipschitz == pytest.approx(float(lipschitz.mean()), rel=SLACK)
    assert held.robust_loss is not None
    assert held.robust_loss >= held.clean_loss


def test_robust_loss_is_that_of_the_worst_logits() -> None:
    network = toy("conv", 3)
    images, labels = held_out(network, 3)
    watch = watched(network, images, labels, 0.1)
    with torch.no_grad():
        bound = global_bound(watch.program, TIGHT)
        trace = propagate(
            watch.program, ball(images, 0.1), EstimatedArithmetic(bound, solver=TIGHT), weighting=RowWeighting.SLOPE
        )
        logits = watch.program.logits(images)
        margins = worst_margins(logits, labels, LastLayer.of(watch.program), trace.post_activation)
    own = F.one_hot(labels, 4).bool()
    worst = torch.where(own, 0.0, -margins)  # relative to the true logit
    assert watch({}).robust_loss == pytest.approx(float(F.cross_entropy(worst, labels)), rel=SLACK)


@pytest.mark.parametrize("name", ["conv clipped MaxMin", "residual", "smooth"])
def test_an_attack_breaks_nothing_that_is_certified(name: str) -> None:
    """And what the watch calls safe under attack is at least what a stronger attack leaves."""
    network, eps = toy(name, 4), 0.15
    images, labels = held_out(network, 4)
    watch = watched(network, images, labels, eps, steps=10)
    held = watch({})
    margins, logits, _ = by_hand(watch)
    right = logits.argmax(1) == labels
    broken = attacked(PGD(steps=80, restarts=3), watch.program, images, labels, eps, 1).refuted
    left = float((right & ~broken).double().mean())
    assert not (broken & (margins > SLACK)).any()
    assert held.attacked_accuracy is not None
    assert held.attacked_accuracy >= left - 1e-12
    assert held.attacked_accuracy <= left + 3 / COUNT, "ten steps find nearly what eighty do"


def test_radii_of_nothing_and_of_everything() -> None:
    network = toy("conv clipped MaxMin", 5)  # no random start of an attack gets stuck on it
    images, labels = held_out(network, 5)
    assert len(set(network(images).argmax(1).tolist())) > 1
    small, large = (watched(network, images, labels, eps)({}) for eps in (1e-6, 50.0))
    assert small.certified_accuracy == small.attacked_accuracy == small.clean_accuracy == pytest.approx(1 - 4 / COUNT)
    assert large.certified_accuracy == large.attacked_accuracy == 0
    assert large.clean_accuracy == small.clean_accuracy


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_make_no_difference(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = toy("conv clipped MaxMin", 6)
    watch = watched(network, *held_out(network, 6), 0.1, steps=50)
    whole = watch({})
    monkeypatch.setattr(llcert_train.watch, "batch_size_for", lambda program: size)
    parts = watch({})
    for field in ("images", "clean_accuracy", "certified_accuracy"):
        assert getattr(parts, field) == pytest.approx(getattr(whole, field), abs=1e-12)
    for field in ("clean_loss", "robust_loss", "global_lipschitz", "local_lipschitz"):
        assert getattr(parts, field) == pytest.approx(getattr(whole, field), rel=SLACK)
    for one, other in zip(parts.layers, whole.layers, strict=True):
        assert one.varying == pytest.approx(other.varying)
        assert sum(n for *_, n in one.iterations) == sum(n for *_, n in other.iterations)


def test_good_and_bad_starts_see_the_same() -> None:
    """Even one that is orthogonal to every singular vector."""
    network = toy("conv", 7)
    watch = watched(network, *held_out(network, 7), 0.1)
    with torch.no_grad():
        vectors = global_bound(watch.program, TIGHT).vectors
    generator = torch.Generator().manual_seed(0)
    noise = {t: torch.randn(v.shape, generator=generator, dtype=v.dtype) for t, v in vectors.items()}
    across = {t: n - (n * vectors[t]).sum() * vectors[t] for t, n in noise.items()}
    seen = [watch(starts) for starts in ({}, vectors, noise, across)]
    for other in seen[1:]:
        assert other.certified_accuracy == seen[0].certified_accuracy
        assert other.global_lipschitz == pytest.approx(seen[0].global_lipschitz, rel=SLACK)
        assert other.local_lipschitz == pytest.approx(seen[0].local_lipschitz, rel=SLACK)


def test_it_sees_the_weights_as_they_are_and_leaves_them(tmp_path: Path) -> None:
    network = toy("conv", 8)
    images, labels = held_out(network, 8)
    weights = Weights.of(network, "cpu")
    watch = Watch(lower(weights.network, dtype=torch.float64), images, labels, 0.1, 5, 0)
    first = watch({})
    with torch.no_grad():
        for leaf in weights.leaves.values():
            leaf.mul_(1.3)
    before = {k: v.detach().clone() for k, v in weights.leaves.items()}
    second = watch({})
    assert second != first
    assert second == watch({})
    assert second == watched(weights.network, images, labels, 0.1, steps=5)({})
    assert all(torch.equal(v, before[k]) and v.grad is None for k, v in weights.leaves.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["dense ReLU-theta", "conv clipped MaxMin", "late residual"])
def test_nothing_is_certified_of_numbers_that_are_not(value: float, name: str) -> None:
    """Every weight in turn; what cannot be said is None, never a number that JSON does not know."""
    network = toy(name, 9)
    images, labels = held_out(network, 9)
    single = replace(network, output=lower(network, dtype=torch.float32).blocks[-1].node)
    weights = Weights.of(single, "cpu")
    watch = Watch(lower(weights.network), images.float()[:6], labels[:6], 0.1, 2, 0)
    for leaf in weights.leaves.values():
        kept = leaf.detach().clone()
        with torch.no_grad():
            leaf.fill_(value)
        held = watch({})
        assert HeldOut.from_json(held.to_json()) == held
        logits = watch.program.logits(watch.images)
        right = logits.isfinite().all(1) & (logits.argmax(1) == watch.labels)
        assert held.certified_accuracy is not None
        assert held.certified_accuracy <= float(right.double().mean()) + 1e-12
        if not logits.isfinite().any():
            assert held.certified_accuracy == held.attacked_accuracy == held.clean_accuracy == 0
        with torch.no_grad():
            leaf.copy_(kept)


def test_it_needs_no_batch_of_the_full_size() -> None:
    network = toy("linear", 10)
    images, labels = held_out(network, 10)
    held = watched(network, images[1:2], labels[1:2], 0.01)({})
    assert held.images == 1
    assert held.clean_accuracy == 1


@pytest.mark.parametrize("name", ["dense ReLU-theta", "conv MaxMin", "late residual"])
def test_without_local_norms_the_global_ball_decides(name: str) -> None:
    """As much as the stage global certifies, and what boxes add; no norm of an image is told."""
    network = toy(name, 2)
    images, labels = held_out(network, 2)
    watch = watched(network, images, labels, 0.05)
    seen, local = replace(watch, local=False)({}), watch({})
    report = certify(network, images, labels, 0.05, "global")
    assert report.certified_accuracy - 1e-9 <= seen.certified_accuracy <= local.certified_accuracy + 1e-9
    assert (seen.clean_accuracy, seen.global_lipschitz) == (local.clean_accuracy, local.global_lipschitz)
    assert seen.local_lipschitz is None
    assert all(layer.local_norm is None and layer.varying is not None for layer in seen.layers)
