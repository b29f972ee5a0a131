"""Rule 7: the least value of a relaxation over a box, against dense sampling."""

from __future__ import annotations

import numpy as np
import pytest

from llcert.checker.backward import _least

from .activations import boxes, random_activation

SEEDS = range(30)
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_least_value_of_a_step_is_below_all_and_no_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phi, (c, lower, upper) = random_activation(rng, 40), boxes(rng, 40)
    a, g = rng.normal(size=40), rng.normal(size=40)
    curvature = rng.choice([0.0, 1e-300, 1e-9, 0.5, 30.0, 1e9], 40)
    found = _least(phi.pieces(), a, g, curvature, (c, lower, upper))
    ends = np.clip(np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None], lower, upper)
    z = np.clip(np.vstack([*(lower + (upper - lower) * t for t in np.linspace(0, 1, 4001)), *ends, c]), lower, upper)
    tried = (a * np.array([phi(row) for row in z]) - g * z + curvature / 2 * (z - c) ** 2).min(0)
    assert np.all(found <= tried)
    close = curvature <= 30
    assert np.all(found[close] >= tried[close] - 1e-4)
