"""The losses of every recipe: their bounds against search and dense matrices, their gradients against differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from objectives import (
    BOUNDED,
    METHODS,
    RADIUS,
    Subject,
    difference,
    directions,
    drawn,
    gradients,
    leaves,
    subject,
)
from random_graphs import in_format
from torch import Tensor
from toys import TOYS, toy, toy_batch

from llcert.bounds import global_bound
from llcert.ops import Clamp, MaxMin
from llcert.program import Term
from llcert_train.norms import improved
from llcert_train.objective import Form, Objective, method_of
from llcert_train.settings import Loss, Recipe

BALLS = ("local", "global")


def test_a_loss_may_be_given_the_ball_it_has() -> None:
    """And standard training and interval bounds, which have none, stay as they are."""
    for loss in Loss:
        own, *both = (method_of(Recipe(loss=loss, ball=b)) for b in (None, *BALLS))  # type: ignore[arg-type]
        others = {m.balls for m in both} - {own.balls}
        assert own in both
        assert len(others) == (0 if loss in (Loss.STANDARD, Loss.IBP) else 1)
        assert all((m.margin, m.form) == (own.margin, own.form) for m in both)


def finer(s: Subject, tight: Mapping[str, Any], loose: Mapping[str, Any], radius: float = RADIUS) -> None:
    (_, worst, loss), (_, other, larger) = (s.told(radius, **recipe) for recipe in (tight, loose))
    assert (worst <= other + 1e-7 * (1 + other.abs())).all()
    assert loss <= larger + 1e-7


@pytest.mark.parametrize("name", TOYS)
def test_sharper_methods_are_never_looser(name: str) -> None:
    """Theorem 1: local <= global; box and ball <= box alone, and <= ball alone; by class <= around all logits."""
    s = drawn(name, 1)
    for loss in BOUNDED:
        if loss not in (Loss.IBP, Loss.CRM):  # what CRM adds up may be below zero, and of more images
            finer(s, {"loss": loss, "ball": "local"}, {"loss": loss, "ball": "global"})
    for tight, loose in (
        (Loss.LOCAL_LIP_B, Loss.BCP),
        (Loss.BCP, Loss.IBP),
        (Loss.LOCAL_LIP_G, Loss.GLORO),
    ):
        finer(s, {"loss": tight}, {"loss": loose})
    for kind in BALLS:
        worst = [s.seen(loss=loss, ball=kind)[1] for loss in (Loss.BCP, Loss.GLORO, Loss.LMT)]
        for tight, loose in itertools.pairwise(worst):
            assert (tight <= loose + 1e-7).all()


@pytest.mark.parametrize("name", ["conv clipped MaxMin", "residual"])
def test_a_larger_radius_never_helps(name: str) -> None:
    s = drawn(name, 2, count=2)
    for loss in BOUNDED:
        worst = [s.seen(r, iterations=60, loss=loss)[1] for r in (0.1, 0.3, 0.6)]
        for small, large in itertools.pairwise(worst):
            assert (small <= large + 1e-4 * (1 + large.abs())).all()


@pytest.mark.parametrize(
    "name", ["dense ReLU-theta", "conv", "conv clipped MaxMin", "late residual", "concatenated", "batch norm", "smooth"]
)
def test_gradient_of_the_loss(name: str) -> None:
    s = drawn(name, 3)
    for words, recipe in METHODS.items():
        form = method_of(Recipe(**recipe)).form
        choosing = form in (Form.EMMA, Form.LOGIT_ANNEALING)
        how = {**recipe, "temperature": 1.7, **({} if choosing else {"sparsity": 0.4, "kappa": 0.3})}
        value = frozen(s, form, how) if choosing else lambda how=how: s.loss(**how)
        slopes = gradients(s, s.measures(**how).loss)
        assert any(bool((g != 0).any()) for g in slopes)
        for direction in directions(s, 2):
            analytic = sum(float((g * d).sum()) for g, d in zip(slopes, direction, strict=True))
            assert analytic == pytest.approx(difference(s, direction, value), rel=2e-4, abs=1e-6), words


@pytest.mark.parametrize("name", ["dense ReLU-theta", "conv", "late residual", "concatenated", "batch norm", "smooth"])
@pytest.mark.parametrize("loss", [Loss.PAIRWISE, Loss.CRM])
def test_gradient_at_vectors_that_are_held_fixed(name: str, loss: Loss) -> None:
    """LipLT by one product with each map, at whatever vectors."""
    s = drawn(name, 3)
    how = {"loss": loss, "ball": "liplt", "iterations": 1}
    slopes = gradients(s, s.measures(**how).loss)
    for direction in directions(s, 3):
        analytic = sum(float((g * d).sum()) for g, d in zip(slopes, direction, strict=True))
        assert analytic == pytest.approx(difference(s, direction, lambda: s.loss(**how)), rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["dense ReLU-theta", "conv", "late residual", "batch norm"])
def test_steps_of_one_product_end_above_every_jacobian(name: str) -> None:
    """Weights stay, vectors are improved by backward passes: the pairs' constants are then bounds, and LipLT's."""
    s = drawn(name, 3)
    objective = Objective(s.program, Recipe(loss=Loss.PAIRWISE, ball="liplt", iterations=1), s.weights.leaves)
    assert objective.composed is not None
    vectors = dict(s.unmasked)
    for _ in range(400):
        vectors = improved(backward(objective, s, vectors))
    bound = objective._bound(vectors)
    with torch.no_grad():
        tight = global_bound(s.program, joint=False, composed=objective.composed)
    assert bound.pairs is not None
    torch.testing.assert_close(bound.pairs.detach(), tight.pairs, rtol=1e-3, atol=1e-6)
    jacobian = torch.autograd.functional.jacobian(lambda x: s.program.logits(x).sum(0), s.images)
    rows = jacobian.transpose(0, 1).flatten(2)
    apart = torch.linalg.vector_norm(rows[:, :, None] - rows[:, None], dim=3).amax(0)
    assert bool((apart <= bound.pairs.detach() * (1 + 1e-3) + 1e-9).all())


def backward(objective: Objective, s: Subject, vectors: Mapping[Term, Tensor]) -> dict[Term, Tensor]:
    """The vectors of a step, with what its backward pass leaves at them."""
    measures = objective(s.images, s.labels, RADIUS, 0.0, vectors, s.vectors, 0)
    measures.loss.backward()
    return measures.unmasked


def test_gradient_reaches_every_leaf() -> None:
    for name in ("dense ReLU-theta", "conv clipped MaxMin", "batch norm", "late residual"):
        s = drawn(name, 4)
        slopes = gradients(s, s.measures(loss=Loss.LOCAL_LIP_B, sparsity=0.1).loss)
        assert all(bool((g != 0).any()) for g in slopes), name


def by_hand_gloro(logits: Tensor, worst: Tensor, labels: Tensor) -> Tensor:
    total = 0.0
    for z, w, y in zip(logits, worst, labels.tolist(), strict=True):
        rival = max(float(v) for j, v in enumerate(w) if j != y)
        total += float(torch.logsumexp(torch.cat((z, z.new_tensor([rival]))), 0) - z[y])
    return torch.tensor(total / len(labels), dtype=logits.dtype)


def by_hand_raised(logits: Tensor, worst: Tensor, labels: Tensor) -> Tensor:
    """Each wrong logit at most level with the true one, unless it was ahead already."""
    return torch.minimum(worst, torch.maximum(logits, logits.gather(1, labels[:, None])))


def by_hand(form: Form, logits: Tensor, worst: Tensor, labels: Tensor, temperature: float) -> Tensor:
    match form:
        case Form.WORST_CASE:
            return F.cross_entropy(worst / temperature, labels)
        case Form.GLORO:
            return by_hand_gloro(logits / temperature, worst / temperature, labels)
        case Form.EMMA:
            return F.cross_entropy(by_hand_raised(logits, worst, labels) / temperature, labels)
        case Form.LOGIT_ANNEALING:
            return by_hand_annealing(by_hand_raised(logits, worst, labels), labels, temperature)
        case Form.CRM:
            return F.cross_entropy(logits / temperature, labels) + by_hand_radii(logits, worst, labels)


def by_hand_radii(logits: Tensor, worst: Tensor, labels: Tensor) -> Tensor:
    """15/5 times the mean of `log sum exp(-5 R_j)`, of images whose least radius is below 0.2."""
    total = 0.0
    for z, w, y in zip(logits.tolist(), worst.tolist(), labels.tolist(), strict=True):
        radii = [RADIUS * (z[y] - z[j]) / (w[j] - z[j]) for j in range(len(z)) if j != y]
        if min(radii) < 0.2:
            total += 3 * math.log(sum(math.exp(-5 * r) for r in radii))
    return torch.tensor(total / len(logits), dtype=logits.dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_loss_is_that_of_its_worst_logits(temperature: float) -> None:
    s = drawn("conv", 5, count=6)
    for words, recipe in METHODS.items():
        logits, worst = s.seen(**recipe)
        form = method_of(Recipe(**recipe)).form
        robust = by_hand(form, logits, worst, s.labels, temperature)
        clean = F.cross_entropy(logits / temperature, s.labels)
        for kappa in (0.0, 0.25, 1.0):
            found = s.measures(kappa=kappa, temperature=temperature, **recipe)
            torch.testing.assert_close(found.robust_loss, F.cross_entropy(worst, s.labels), msg=words)
            torch.testing.assert_close(found.clean_loss, F.cross_entropy(logits, s.labels), msg=words)
            expected = kappa * clean + (1 - kappa) * robust if form is Form.WORST_CASE else robust
            torch.testing.assert_close(found.loss.detach(), expected, msg=words)
            assert not any(part.requires_grad for part in (found.clean_loss, found.robust_loss, found.sparsity))


@pytest.mark.parametrize("loss", [loss for loss in Loss if loss is not Loss.CRM])
def test_radius_zero_is_the_limit_of_small_radii(loss: Loss) -> None:
    """The clean loss for those that are a cross-entropy of worst logits; the others keep their own form."""
    s = drawn("conv clipped MaxMin", 6, count=6)
    logits = s.program.logits(s.images).detach()
    found, near = s.measures(0.0, loss=loss), s.measures(1e-9, loss=loss)
    form = method_of(Recipe(loss=loss)).form
    torch.testing.assert_close(found.loss, near.loss)
    torch.testing.assert_close(found.loss.detach(), by_hand(form, logits, logits, s.labels, 1.0))
    torch.testing.assert_close(found.clean_loss, F.cross_entropy(logits, s.labels))
    assert found.vectors == {}
    assert found.unmasked == {}
    if form in (Form.WORST_CASE, Form.EMMA):
        assert torch.equal(found.loss.detach(), found.clean_loss)


@pytest.mark.parametrize("radius", [0.0, RADIUS])
def test_the_standard_loss_is_the_clean_one_whatever_kappa_says(radius: float) -> None:
    s = drawn("conv", 7)
    for kappa in (0.0, 0.5, 1.0):
        found = s.measures(radius, kappa, loss=Loss.STANDARD)
        torch.testing.assert_close(found.loss, F.cross_entropy(s.program.logits(s.images), s.labels))
        assert found.vectors == {}


def test_a_temperature_divides_the_last_layer() -> None:
    s = drawn("dense ReLU-theta", 8)
    divided = [r for r in METHODS.values() if method_of(Recipe(**r)).form is not Form.LOGIT_ANNEALING]
    expected = [s.loss(kappa=0.3, temperature=2.5, **recipe) for recipe in divided]
    last = [node.op for node in s.weights.network.operators()][-1]
    with torch.no_grad():
        for tensor in last.tensors().values():
            tensor.div_(2.5)
    assert [s.loss(kappa=0.3, **recipe) for recipe in divided] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("loss", BOUNDED)
def test_sparsity_is_equation_12(loss: Loss) -> None:
    """Mean over neurons and images of the distance from being constant, with boxes that are known in closed form."""
    for name in ("one hidden ReLU-theta", "one hidden clipped MaxMin"):
        s = drawn(name, 2)
        first, op, _ = (node.op for node in s.weights.network.operators())
        total = torch.zeros((), dtype=torch.float64)
        for x in s.images:
            W, b = first.tensors()["weight"].detach(), first.tensors()["bias"].detach()
            reach = RADIUS * torch.linalg.vector_norm(W, dim=1)
            lower, upper = W @ x + b - reach, W @ x + b + reach
            if isinstance(op, Clamp):
                assert op.high is not None
                total += (upper.clamp(min=0) + (op.high.detach() - lower).clamp(min=0)).sum()
            else:
                assert isinstance(op, MaxMin)
                (la, lb), (ua, ub) = lower.chunk(2), upper.chunk(2)
                total += (torch.minimum(ua, ub) - op.low.detach()).clamp(min=0).sum()  # type: ignore[union-attr]
                total += (op.high.detach() - torch.maximum(la, lb)).clamp(min=0).sum()  # type: ignore[union-attr]
        expected = total / (len(s.images) * len(upper))
        plain, found = s.measures(loss=loss, sparsity=0.0), s.measures(loss=loss, sparsity=0.7)
        torch.testing.assert_close(found.sparsity, expected)
        torch.testing.assert_close(found.loss - 0.7 * found.sparsity, plain.loss)
        assert float(plain.sparsity) == 0


def test_the_standard_loss_knows_no_sparsity() -> None:
    assert float(drawn("conv").measures(loss=Loss.STANDARD, sparsity=1.0).sparsity) == 0


@pytest.mark.parametrize("name", ["conv clipped MaxMin", "late residual", "batch norm"])
def test_vectors_make_the_next_step_exact(name: str) -> None:
    """What a measure returns is a start from which two iterations say what a thousand do."""
    s = drawn(name, 9)
    exact = s.loss(loss=Loss.LOCAL_LIP_B, iterations=1000)
    with torch.no_grad():
        again = s.measures(loss=Loss.LOCAL_LIP_B, iterations=2)
    assert float(again.loss) == pytest.approx(exact, rel=1e-6)
    cold = replace(s, vectors={}, unmasked={})
    assert cold.loss(loss=Loss.LOCAL_LIP_B, iterations=1) < exact
    norms = [float(torch.linalg.vector_norm(v.flatten(1), dim=1).max()) for v in again.vectors.values()]
    assert max(norms) <= 1 + 1e-6


def test_random_starts_take_no_saved_vectors() -> None:
    s = drawn("conv", 10)
    other = replace(s, vectors={t: torch.randn_like(v) for t, v in s.vectors.items()})
    how = {"loss": Loss.LOCAL_LIP_B, "iterations": 1}
    assert s.loss(start="random", **how) == other.loss(start="random", **how)
    assert s.loss(start="saved", **how) != other.loss(start="saved", **how)


def test_mixed_precision_finds_nearly_the_same_norms() -> None:
    network = toy("conv", 11)
    images, labels = (t.float() if t.is_floating_point() else t for t in toy_batch(network, 4, 11))
    single = in_format(network, torch.float32)
    s = subject(single, images, labels)
    assert s.program.dtype == torch.float32
    exact = s.loss(loss=Loss.LOCAL_LIP_B)
    assert s.loss(loss=Loss.LOCAL_LIP_B, mixed=True, iterations=5) == pytest.approx(exact, rel=0.01)


def damaged(s: Subject) -> Iterator[str]:
    """The subject with some of its leaves dead, one after the other, and what was done to it."""
    before = [p.detach().clone() for p in leaves(s)]

    def put(values: list[Tensor]) -> None:
        with torch.no_grad():
            for p, v in zip(leaves(s), values, strict=True):
                p.copy_(v)

    yield "nothing"
    put([torch.zeros_like(p) for p in before])
    yield "all zeros"
    for dead, name in enumerate(s.weights.leaves):
        put([torch.zeros_like(p) if i == dead else p for i, p in enumerate(before)])
        yield f"{name} zero"
    for value in (-100.0, 100.0):
        pairs = zip(s.weights.leaves, before, strict=True)
        put([torch.full_like(p, value) if name.endswith("bias") else p for name, p in pairs])
        yield f"biases {value}"
    put([1e-30 * p for p in before])
    yield "tiny"
    put([1e8 * p for p in before])
    yield "large"
    put(before)


@pytest.mark.parametrize("name", TOYS)
def test_dead_networks_have_finite_gradients(name: str) -> None:
    network = toy(name, 12)
    single = in_format(network, torch.float32)
    shape = network.input.shape
    images = torch.cat((torch.zeros(2, *shape), torch.ones(2, *shape), torch.full((2, *shape), 0.5)))
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    s = subject(single, images, labels)
    s = replace(
        s, vectors={t: v * (torch.arange(6) % 2).reshape(-1, *[1] * (v.ndim - 1)) for t, v in s.vectors.items()}
    )
    for words in damaged(s):
        for loss in (Loss.IBP, Loss.LOCAL_LIP_B, Loss.LOCAL_LIP_G) if words.endswith(" zero") else Loss:
            how: dict[str, Any] = {"loss": loss, "iterations": 2, "kappa": 0.5, "sparsity": 0.1}
            found = s.measures(**how)
            assert found.loss.isfinite(), f"{words}, {loss}"
            assert all(bool(g.isfinite().all()) for g in gradients(s, found.loss)), f"{words}, {loss}"


def by_hand_annealing(raised: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """With exponent 5 and offset 2, as a recipe has them."""
    total = 0.0
    for w, y in zip(raised, labels.tolist(), strict=True):
        lowered = w.clone()
        lowered[y] -= 2
        p = float(torch.softmax(lowered / temperature, 0)[y])
        total -= temperature * (1 - p) ** 5 * float(torch.log(torch.tensor(p, dtype=torch.float64)))
    return torch.tensor(total / len(labels), dtype=raised.dtype)


def frozen(s: Subject, form: Form, recipe: dict[str, Any]) -> Callable[[], float]:
    """The loss of raised logits as a function of the weights, the radius of every class fixed at what it is now."""
    logits, worst = s.seen(**recipe)
    behind, increase = logits.gather(1, s.labels[:, None]) - logits, worst - logits
    share = torch.where(increase > 0, behind / increase.clamp(min=1e-300), 1.0).clamp(0, 1)

    def value() -> float:
        logits, worst = s.seen(**recipe)
        raised, heat = logits + share * (worst - logits), recipe.get("temperature", 1.0)
        if form is Form.EMMA:
            return float(F.cross_entropy(raised / heat, s.labels))
        return float(by_hand_annealing(raised, s.labels, heat))

    return value
