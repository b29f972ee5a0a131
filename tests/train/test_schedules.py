"""Schedules: ends, order and shape for every recipe there can be, divisions by nothing included."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llcert_train.schedules import Schedule
from llcert_train.settings import Decay, Recipe, read_recipe, recipe_names

EPS = 36 / 255
GRID = [i / 200 for i in range(201)]
SHARES = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 5e-324, 1 - 2**-53]), st.floats(0, 1))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    warm_up, ramp = sorted((draw(SHARES), draw(SHARES)))
    return Recipe(
        warm_up=warm_up,
        ramp=ramp,
        decay_from=draw(SHARES),
        decay=draw(st.sampled_from(Decay)),
        kappa=draw(st.floats(0, 1)),
        overshoot=draw(st.floats(0.1, 3)),
        rate=draw(st.floats(1e-6, 1)),
        final_rate=draw(st.floats(1e-9, 1)),
    )


def ordered(values: list[float], *, rising: bool) -> bool:
    return values == sorted(values, reverse=not rising)


@given(recipes(), st.lists(st.floats(0, 1), max_size=20))
@settings(max_examples=150, deadline=None)
def test_monotone_between_their_ends(recipe: Recipe, more: list[float]) -> None:
    schedule = Schedule(recipe, EPS)
    at = sorted({*GRID, *more, recipe.warm_up, recipe.ramp, recipe.decay_from})
    ramped, radius = [schedule.ramped(p) for p in at], [schedule.radius(p) for p in at]
    kappa, rate = [schedule.kappa(p) for p in at], [schedule.rate(p) for p in at]
    assert all(math.isfinite(v) for v in (*ramped, *radius, *kappa, *rate))
    assert ordered(ramped, rising=True)
    assert ordered(radius, rising=True)
    assert ordered(kappa, rising=False)
    slack = 1 + 1e-12  # powers round
    falls = recipe.final_rate <= recipe.rate
    for before, after in itertools.pairwise(rate):
        assert after <= before * slack if falls else after >= before / slack
    assert all(0 <= r <= 1 for r in ramped)
    assert all(recipe.kappa - 1e-15 <= k <= 1 for k in kappa)
    low, high = sorted((recipe.rate, recipe.final_rate))
    assert all(low / slack <= r <= high * slack for r in rate)


@given(recipes())
@settings(max_examples=100, deadline=None)
def test_last_values(recipe: Recipe) -> None:
    schedule = Schedule(recipe, EPS)
    for progress in (recipe.ramp, 1.0):
        assert schedule.ramped(progress) == 1.0
        assert schedule.radius(progress) == recipe.overshoot * EPS
        assert schedule.kappa(progress) == pytest.approx(recipe.kappa, abs=1e-15)
    last = recipe.final_rate if recipe.decay_from < 1 else recipe.rate
    assert schedule.rate(1.0) == pytest.approx(last, rel=1e-9)


@given(recipes())
@settings(max_examples=100, deadline=None)
def test_first_values(recipe: Recipe) -> None:
    schedule = Schedule(recipe, EPS)
    assert schedule.rate(0.0) == recipe.rate == schedule.rate(recipe.decay_from)
    if recipe.ramp > 0:
        assert schedule.radius(0.0) == 0.0
        assert schedule.kappa(0.0) == 1.0
    if recipe.warm_up < recipe.ramp:
        assert schedule.radius(recipe.warm_up) == 0.0


def test_a_robust_loss_alone_is_reached_exactly() -> None:
    """The objective leaves the clean loss out where its weight is zero, and the bound where the radius is."""
    schedule = Schedule(Recipe(kappa=0.0), EPS)
    assert schedule.kappa(1.0) == 0.0
    assert schedule.radius(0.0) == 0.0


@pytest.mark.parametrize(
    ("warm_up", "ramp", "progress", "expected"),
    [
        (0.0, 0.5, 0.25, 0.5),
        (0.2, 0.6, 0.2, 0.0),
        (0.2, 0.6, 0.3, 0.25),
        (0.2, 0.6, 0.6, 1.0),
        (0.0, 1.0, 0.999, 0.999),
        (0.0, 0.0, 0.0, 1.0),
        (0.5, 0.5, 0.4999, 0.0),
        (0.5, 0.5, 0.5, 1.0),
        (1.0, 1.0, 0.9999, 0.0),
        (1.0, 1.0, 1.0, 1.0),
    ],
)
def test_the_ramp_is_linear(warm_up: float, ramp: float, progress: float, expected: float) -> None:
    schedule = Schedule(Recipe(warm_up=warm_up, ramp=ramp, kappa=0.25, overshoot=1.5), 0.2)
    assert schedule.ramped(progress) == pytest.approx(expected, abs=1e-12)
    assert schedule.radius(progress) == pytest.approx(0.3 * expected, abs=1e-12)
    assert schedule.kappa(progress) == pytest.approx(1 - 0.75 * expected, abs=1e-12)


@pytest.mark.parametrize("begin", [0.0, 0.3, 0.5, 0.99])
def test_the_rate_falls_by_equal_factors(begin: float) -> None:
    schedule = Schedule(Recipe(rate=1e-3, final_rate=1e-6, decay_from=begin), EPS)
    for number, expected in enumerate((1e-3, 1e-4, 1e-5, 1e-6)):
        assert schedule.rate(begin + number / 3 * (1 - begin)) == pytest.approx(expected, rel=1e-9)


def test_a_rate_that_never_falls() -> None:
    schedule = Schedule(Recipe(decay_from=1.0), EPS)
    assert {schedule.rate(p) for p in GRID} == {1e-3}


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_start_clean_and_end_at_the_full_radius(name: str) -> None:
    recipe = read_recipe(name)
    schedule = Schedule(recipe, EPS)
    assert (schedule.radius(0.0), schedule.kappa(0.0), schedule.rate(recipe.rate_warm_up)) == (0.0, 1.0, recipe.rate)
    assert schedule.radius(1.0) > EPS
    assert schedule.rate(1.0) < recipe.rate


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.99])
def test_the_last_phase_is_a_share_at_the_end(share: float) -> None:
    schedule = Schedule(Recipe(last_share=share, last_loss="crm", warm_up=0.2), EPS)
    assert [schedule.phase(p) for p in (0.0, 0.999 * (1 - share), 1 - share, 1.0)] == [0, 0, 1, 1]
    assert schedule.stretches == tuple(sorted((0.2, 1 - share, 1.0)))
    assert sum(schedule.phase(n / 1000) for n in range(1000)) == pytest.approx(1000 * share, abs=1)


def test_a_run_of_one_phase() -> None:
    schedule = Schedule(Recipe(warm_up=0.0), EPS)
    assert {schedule.phase(p) for p in GRID} == {0}
    assert schedule.stretches == (1.0,)


def test_half_a_wave() -> None:
    schedule = Schedule(Recipe(rate=1e-3, final_rate=1e-5, decay_from=0.2, decay=Decay.COSINE), EPS)
    assert schedule.rate(0.2) == 1e-3
    assert schedule.rate(0.6) == pytest.approx((1e-3 + 1e-5) / 2)
    assert schedule.rate(0.4) == pytest.approx(1e-5 + 0.99e-3 * (1 + 2**-0.5) / 2)
    assert schedule.rate(1.0) == pytest.approx(1e-5)


@pytest.mark.parametrize("decay", Decay)
def test_a_rate_rises_first_if_asked(decay: Decay) -> None:
    plain = Schedule(Recipe(decay_from=0.0, decay=decay), EPS)
    schedule = Schedule(Recipe(decay_from=0.0, decay=decay, rate_warm_up=0.1), EPS)
    assert schedule.rate(0.0) == 0
    assert schedule.rate(0.05) == pytest.approx(plain.rate(0.05) / 2)
    assert [schedule.rate(p) for p in (0.1, 0.5, 1.0)] == [plain.rate(p) for p in (0.1, 0.5, 1.0)]
