"""Rules 3 and 6: weights, images and constant entries of activations, against dense sampling."""

from __future__ import annotations

import numpy as np
import pytest

from llcert.checker.activations import Clamp, MaxMin

from .activations import boxes, random_activation

SEEDS = range(30)
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_bound_every_chord_and_hardly_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phi, (c, lower, upper) = random_activation(rng, 40), boxes(rng, 40)
    weights = phi.weights(c, lower, upper)
    z = np.clip(np.vstack([lower + (upper - lower) * t for t in np.linspace(0, 1, 2001)]), lower, upper)
    rise, run = abs(np.array([phi(row) for row in z]) - phi(c)), abs(z - c)
    assert np.all(rise <= weights * run + 1e-15)
    chord = np.where(run > 1e-9, rise / np.where(run > 1e-9, run, 1), 0).max(0)
    assert np.all(weights <= chord + 0.02)
    if isinstance(phi, Clamp):
        assert np.all(weights[phi.constant(lower, upper)] == 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_images_contain_and_constants_are_constant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, lower, upper = boxes(rng, 40)
    pairs = rng.permutation(40)
    clip = rng.choice([np.inf, 0.5, 0.0, -0.5], (2, 20))
    for phi in (random_activation(rng, 40), MaxMin(pairs[:20], pairs[20:], -clip[0], clip[1])):
        z = lower + (upper - lower) * rng.choice([0.0, 1.0, rng.random()], (2000, 40))
        values = np.array([phi(row) for row in np.clip(z, lower, upper)])
        low, high = phi.image(lower, upper)
        assert np.all((low <= values) & (values <= high))
        assert np.all(np.ptp(values, 0)[phi.constant(lower, upper)] == 0)
        weights = phi.weights(c, lower, upper)
        z = np.clip(lower + (upper - lower) * rng.random((2000, 40)), lower, upper)
        moved = np.linalg.norm(np.array([phi(row) for row in z]) - phi(c), axis=1)
        assert np.all(moved <= np.linalg.norm(weights * (z - c), axis=1) + 1e-12)
