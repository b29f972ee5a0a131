"""Losses against sums written out image by image, and their gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.domain.region import Region
from llcert.ops import Clamp, MaxMin, relu
from llcert_train import losses

Case = tuple[Tensor, Tensor, Tensor]
"""Logits, how far each may rise against the true one (zero for the true class), labels."""


def draw(seed: int, batch: int = 5, classes: int = 4, scale: float = 2.0) -> Case:
    """Float64; some classes cannot move, some images are misclassified."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    rise = scale * torch.rand(batch, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=generator)
    still = (torch.rand(rise.shape, generator=generator) < 0.2) | own(logits, labels)
    return logits, torch.where(still, 0.0, rise), labels


def own(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.arange(logits.shape[1]) == labels[:, None]


def margins_of(logits: Tensor, rise: Tensor, labels: Tensor) -> Tensor:
    """Lower bounds on `z_y - z_j` as the bounds give them: infinite for the true class."""
    margins = logits.gather(1, labels[:, None]) - logits - rise
    return torch.where(own(logits, labels), torch.inf, margins)


def entropy(scores: list[float], label: int) -> float:
    """Cross-entropy of one image."""
    top = max(scores)
    return top + math.log(sum(math.exp(s - top) for s in scores)) - scores[label]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def differences(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of a scalar function, entry by entry."""
    found = torch.zeros_like(x)
    for i in range(x.numel()):
        move = torch.zeros_like(x)
        move.view(-1)[i] = step
        found.view(-1)[i] = (function(x + move) - function(x - move)) / (2 * step)
    return found


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


SEEDS = st.integers(0, 10_000)
SIZES = {"seed": SEEDS, "batch": st.integers(1, 6), "classes": st.integers(2, 7)}


class TestWorstLogits:
    @given(**SIZES)
    @settings(max_examples=40, deadline=None)
    def test_formula(self, seed: int, batch: int, classes: int) -> None:
        logits, rise, labels = draw(seed, batch, classes)
        margins = margins_of(logits, rise, labels)
        worst = losses.worst_logits(logits, labels, margins)
        for n, y in enumerate(labels.tolist()):
            for j in range(classes):
                expected = logits[n, y] if j == y else logits[n, y] - margins[n, j]
                assert worst[n, j] == expected
        torch.testing.assert_close(worst, logits + rise)

    def test_gradient_reaches_the_true_logit_and_the_margins(self) -> None:
        logits, rise, labels = draw(0)
        truth, margins = leaf(logits), leaf(margins_of(logits, rise, labels))
        weights = torch.rand_like(logits)
        (losses.worst_logits(truth, labels, margins) * weights).sum().backward()
        mine = own(logits, labels)
        assert torch.equal(margins.grad, torch.where(mine, 0.0, -weights))  # nothing of the infinite ones
        expected = torch.where(mine, weights.sum(1, keepdim=True).expand_as(weights), 0.0)
        torch.testing.assert_close(truth.grad, expected)

    @pytest.mark.parametrize("robust", [losses.worst_case, losses.gloro, losses.emma, losses.logit_annealing])
    def test_infinite_margins_of_the_true_class_give_finite_gradients(self, robust: Callable[..., Tensor]) -> None:
        logits, rise, labels = draw(1)
        inputs = leaf(logits), leaf(rise)
        worst = losses.worst_logits(inputs[0], labels, margins_of(*inputs, labels))
        with_logits = robust in (losses.gloro, losses.emma)
        shape = {"exponent": 5.0, "offset": 2.0} if robust is losses.logit_annealing else {}
        loss = robust(*([inputs[0]] if with_logits else []), worst, labels, **shape)
        loss.backward()
        assert loss.isfinite()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)
        assert not (inputs[1].grad[own(logits, labels)] != 0).any()


class TestCrossEntropies:
    @given(**SIZES)
    @settings(max_examples=40, deadline=None)
    def test_formulas(self, seed: int, batch: int, classes: int) -> None:
        logits, rise, labels = draw(seed, batch, classes)
        for loss, scores in ((losses.clean, logits), (losses.worst_case, logits + rise)):
            expected = mean([entropy(s, y) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)])
            assert float(loss(scores, labels)) == pytest.approx(expected, rel=1e-12, abs=1e-15)

    def test_gradients(self) -> None:
        logits, rise, labels = draw(2)
        rise[0] = 0.0
        assert torch.autograd.gradcheck(lambda z: losses.clean(z, labels), leaf(logits))
        assert torch.autograd.gradcheck(
            lambda z, r: losses.worst_case(losses.worst_logits(z, labels, margins_of(z, r, labels)), labels),
            (leaf(logits), leaf(rise)),
        )

    def test_more_rise_is_never_less_loss(self) -> None:
        logits, rise, labels = draw(3, batch=20)
        images = [torch.tensor([n]) for n in range(20)]
        before = torch.stack([losses.worst_case((logits + rise)[n], labels[n]) for n in images])
        after = torch.stack([losses.worst_case((logits + 2 * rise)[n], labels[n]) for n in images])
        assert (after >= before).all()
        assert (after > before).any()


class TestGloro:
    @given(**SIZES)
    @settings(max_examples=60, deadline=None)
    def test_the_extra_class_is_the_largest_wrong_one(self, seed: int, batch: int, classes: int) -> None:
        logits, rise, labels = draw(seed, batch, classes)
        worst = (logits + rise).tolist()
        expected = []
        for n, y in enumerate(labels.tolist()):
            rival = max(w for j, w in enumerate(worst[n]) if j != y)
            expected.append(entropy([*logits[n].tolist(), rival], y))
        found = losses.gloro(logits, logits + rise, labels)
        assert float(found) == pytest.approx(mean(expected), rel=1e-12)

    def test_the_true_class_is_never_its_own_rival(self) -> None:
        logits, labels = torch.tensor([[5.0, 1.0, 0.0]], dtype=torch.float64), torch.tensor([0])
        worst = torch.tensor([[5.0, 2.0, 0.5]], dtype=torch.float64)
        assert float(losses.gloro(logits, worst, labels)) == pytest.approx(entropy([5.0, 1.0, 0.0, 2.0], 0))

    def test_gradients(self) -> None:
        logits, rise, labels = draw(4)
        assert torch.autograd.gradcheck(
            lambda z, r: losses.gloro(z, losses.worst_logits(z, labels, margins_of(z, r, labels)), labels),
            (leaf(logits), leaf(rise)),
        )

    def test_tied_rivals_share_a_gradient(self) -> None:
        logits, labels = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0])
        worst = leaf(torch.tensor([[0.0, 3.0, 3.0, 1.0]]).double())
        losses.gloro(logits, worst, labels).backward()
        share = math.exp(3) / (4 + math.exp(3))
        assert float(worst.grad.sum()) == pytest.approx(share)
        assert (worst.grad[0, [1, 2]] >= 0).all()
        assert torch.equal(worst.grad[0, [0, 3]], torch.zeros(2, dtype=torch.float64))


def emma_share(truth: float, score: float, rise: float) -> float:
    """The share of its radius that a class gets: all of it, or what lifts it level with the true class, or nothing."""
    if rise <= 0:
        return 1.0
    return min(1.0, max(0.0, (truth - score) / rise))


def emma_shares(logits: Tensor, rise: Tensor, labels: Tensor) -> Tensor:
    rows = zip(logits.tolist(), rise.tolist(), labels.tolist(), strict=True)
    shares = [[emma_share(z[y], s, r) for s, r in zip(z, up, strict=True)] for z, up, y in rows]
    return torch.tensor(shares, dtype=logits.dtype)


class TestEmma:
    @given(**SIZES)
    @settings(max_examples=60, deadline=None)
    def test_formula(self, seed: int, batch: int, classes: int) -> None:
        logits, rise, labels = draw(seed, batch, classes)
        raised = (logits + emma_shares(logits, rise, labels) * rise).tolist()
        expected = mean([entropy(s, y) for s, y in zip(raised, labels.tolist(), strict=True)])
        assert float(losses.emma(logits, logits + rise, labels)) == pytest.approx(expected, rel=1e-12, abs=1e-15)

    def test_three_kinds_of_classes(self) -> None:
        """One that could pass the true class is lifted level, one that cannot gets all, one in front gets nothing."""
        logits = torch.tensor([[1.0, 0.5, -4.0, 2.0]], dtype=torch.float64)
        rise = torch.tensor([[0.0, 3.0, 1.0, 5.0]], dtype=torch.float64)
        found = losses.emma(logits, logits + rise, torch.tensor([0]))
        assert float(found) == pytest.approx(entropy([1.0, 1.0, -3.0, 2.0], 0), rel=1e-12)

    def test_between_the_clean_loss_and_the_worst_case(self) -> None:
        for seed in range(20):
            logits, rise, labels = draw(seed, batch=1)
            found = losses.emma(logits, logits + rise, labels)
            assert losses.clean(logits, labels) - 1e-12 <= found <= losses.worst_case(logits + rise, labels) + 1e-12

    @pytest.mark.parametrize("seed", range(8))
    def test_no_gradient_through_the_choice(self, seed: int) -> None:
        logits, rise, labels = draw(seed, batch=12)
        rise = torch.where(own(logits, labels), 0.0, rise + 0.1)
        shares = emma_shares(logits, rise, labels)
        assert ((shares > 0) & (shares < 1)).any()

        def frozen(z: Tensor, r: Tensor) -> Tensor:
            worst = losses.worst_logits(z, labels, margins_of(z, r, labels))
            return losses.worst_case(z + shares * (worst - z), labels)

        inputs = leaf(logits), leaf(rise)
        worst = losses.worst_logits(inputs[0], labels, margins_of(*inputs, labels))
        losses.emma(inputs[0], worst, labels).backward()
        by_logits = differences(lambda z: frozen(z, rise), logits)
        by_rise = torch.where(own(logits, labels), 0.0, differences(lambda r: frozen(logits, r), rise))
        torch.testing.assert_close(inputs[0].grad, by_logits, atol=1e-8, rtol=1e-7)
        torch.testing.assert_close(inputs[1].grad, by_rise, atol=1e-8, rtol=1e-7)

    @pytest.mark.parametrize("gap", [0.0, 1e-300, 1e-12, 1e300])
    def test_tiny_and_huge_rises_stay_finite(self, gap: float) -> None:
        logits, rise = torch.tensor([[1.0, 1.0, 0.0]]).double(), gap * torch.tensor([[0.0, 1.0, 1.0]]).double()
        worst = leaf(logits + rise)
        loss = losses.emma(logits, worst, torch.tensor([0]))
        loss.backward()
        assert loss.isfinite()
        assert worst.grad.isfinite().all()
        assert math.log(2) < float(loss.detach()) < math.log(3) + 1e-12


EXPONENTS = [0.0, 0.01, 0.5, 1.0, 2.0, 5.0]


class TestLogitAnnealing:
    @given(exponent=st.sampled_from(EXPONENTS), offset=st.floats(0, 4), heat=st.floats(0.5, 2), **SIZES)
    @settings(max_examples=60, deadline=None)
    def test_formula(self, exponent: float, offset: float, heat: float, seed: int, batch: int, classes: int) -> None:
        logits, rise, labels = draw(seed, batch, classes)
        expected = []
        for scores, y in zip((logits + rise).tolist(), labels.tolist(), strict=True):
            lowered = [(s - offset * (j == y)) / heat for j, s in enumerate(scores)]
            p = math.exp(-entropy(lowered, y))
            missing = math.fsum(math.exp(-entropy(lowered, j)) for j in range(classes) if j != y)
            expected.append(-heat * (missing**exponent) * math.log(p))
        found = losses.logit_annealing(logits + rise, labels, exponent=exponent, offset=offset, temperature=heat)
        assert float(found) == pytest.approx(mean(expected), rel=1e-9, abs=1e-12)

    @given(**SIZES)
    @settings(max_examples=30, deadline=None)
    def test_is_cross_entropy_without_exponent_and_offset(self, seed: int, batch: int, classes: int) -> None:
        logits, rise, labels = draw(seed, batch, classes)
        worst = leaf(logits + rise), leaf(logits + rise)
        found = losses.logit_annealing(worst[0], labels, exponent=0.0, offset=0.0)
        plain = losses.worst_case(worst[1], labels)
        torch.testing.assert_close(found, plain)
        found.backward()
        plain.backward()
        torch.testing.assert_close(worst[0].grad, worst[1].grad)

    @pytest.mark.parametrize("offset", [0.0, 2.0])
    @pytest.mark.parametrize("exponent", EXPONENTS)
    def test_gradients(self, exponent: float, offset: float) -> None:
        logits, rise, labels = draw(5)
        assert torch.autograd.gradcheck(
            lambda w: losses.logit_annealing(w, labels, exponent=exponent, offset=offset), leaf(logits + rise)
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
    @pytest.mark.parametrize("exponent", EXPONENTS)
    def test_huge_logits(self, exponent: float, size: float, dtype: torch.dtype) -> None:
        """Nothing where the true class is far in front; where it is far behind, the distance."""
        scores = torch.tensor([[size, 0.0, -size], [-size, 0.0, size]], dtype=dtype)
        for row, expected in ((0, 0.0), (1, 2 * size)):
            worst = leaf(scores[row : row + 1])
            loss = losses.logit_annealing(worst, torch.tensor([0]), exponent=exponent, offset=2.0)
            loss.backward()
            assert float(loss.detach()) == pytest.approx(expected, rel=0.05, abs=1e-12)
            assert worst.grad.isfinite().all()
            if row == 1:
                assert worst.grad[0].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-6)

    def test_pulls_less_the_larger_the_margin_and_the_exponent(self) -> None:
        def pull(margin: float, exponent: float) -> float:
            worst = leaf(torch.tensor([[margin, 0.0]], dtype=torch.float64))
            losses.logit_annealing(worst, torch.tensor([0]), exponent=exponent, offset=0.0).backward()
            return -float(worst.grad[0, 0])

        assert pull(4.0, 2.0) < pull(2.0, 2.0)
        assert pull(4.0, 5.0) < pull(4.0, 2.0) < pull(4.0, 0.0)
        assert pull(4.0, 5.0) > 0


def region(seed: int, *shape: int, batch: int = 3) -> Region:
    generator = torch.Generator().manual_seed(seed)
    centre = 2 * torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    below, above = torch.rand(2, *centre.shape, generator=generator, dtype=torch.float64)
    return Region(centre, centre - below, centre + above, torch.full((batch,), torch.inf, dtype=torch.float64))


def positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 0.0)


class TestSparsity:
    @pytest.mark.parametrize("seed", range(5))
    def test_relu_theta_is_equation_12(self, seed: int) -> None:
        z = region(seed, 4, 3)
        theta = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = losses.sparsity([Clamp(torch.zeros(()), theta).gaps(z)])
        total = 0.0
        for n in range(3):
            for c in range(4):
                for i in range(3):
                    total += max(0.0, float(z.upper[n, c, i])) + max(0.0, float(theta[c, i] - z.lower[n, c, i]))
        assert float(found) == pytest.approx(total / 36, rel=1e-12)

    def test_plain_relu_has_one_piece(self) -> None:
        z = region(0, 4)
        torch.testing.assert_close(losses.sparsity([relu().gaps(z)]), positive(z.upper).mean())

    @pytest.mark.parametrize("pairs", [False, True])
    @pytest.mark.parametrize("seed", range(5))
    def test_clipped_maxmin_is_equation_12(self, seed: int, pairs: bool) -> None:
        z = region(seed, 6, 2)
        generator = torch.Generator().manual_seed(seed)
        t_max, t_min = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)
        found = losses.sparsity([MaxMin(0, pairs, t_max, -t_min).gaps(z)])
        total = 0.0
        for n in range(3):
            for c in range(3):
                a, b = (2 * c, 2 * c + 1) if pairs else (c, c + 3)
                for i in range(2):
                    smaller = min(float(z.upper[n, a, i]), float(z.upper[n, b, i]))
                    larger = max(float(z.lower[n, a, i]), float(z.lower[n, b, i]))
                    total += max(0.0, smaller + float(t_min[c, i])) + max(0.0, float(t_max[c, i]) - larger)
        assert float(found) == pytest.approx(total / 36, rel=1e-12)  # 3 images of 12 values

    def test_activations_add_up(self) -> None:
        first, second = relu().gaps(region(1, 4)), Clamp(torch.zeros(()), torch.ones(())).gaps(region(2, 5))
        together, alone = losses.sparsity([first, second]), losses.sparsity([first]) + losses.sparsity([second])
        torch.testing.assert_close(together, alone)

    def test_pieces_that_do_not_exist_count_nothing(self) -> None:
        z = region(3, 4)
        reachable = torch.tensor([1.0, torch.inf, 2.0, torch.inf], dtype=torch.float64)
        lower = leaf(z.lower)
        found = losses.sparsity([Clamp(None, reachable).gaps(Region(z.centre, lower, z.upper, z.radius))])
        torch.testing.assert_close(found, positive(reachable - z.lower)[:, [0, 2]].sum() / 12)
        found.backward()
        assert lower.grad.isfinite().all()
        assert not lower.grad[:, [1, 3]].any()
        assert losses.sparsity([MaxMin().gaps(z)]) == 0

    def test_constant_activations_cost_nothing_and_are_not_pulled(self) -> None:
        gap = leaf(torch.tensor([[-1.0, -1e-9, 2.0]], dtype=torch.float64))
        found = losses.sparsity([(gap,)])
        found.backward()
        assert float(found.detach()) == pytest.approx(2 / 3)
        assert gap.grad.tolist() == [[0.0, 0.0, pytest.approx(1 / 3)]]

    def test_gradients(self) -> None:
        z = region(4, 4)
        theta = torch.full((4,), 0.5, dtype=torch.float64)

        def loss(lower: Tensor, upper: Tensor, high: Tensor) -> Tensor:
            box = Region(z.centre, lower, upper, z.radius)
            clipped = MaxMin(0, False, high[:2], -high[2:]).gaps(box)
            return losses.sparsity([Clamp(torch.zeros(()), high).gaps(box), clipped])

        assert torch.autograd.gradcheck(loss, (leaf(z.lower), leaf(z.upper), leaf(theta)))
