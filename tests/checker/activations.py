"""Random activations and boxes, many of them with an end or the centre on a knot."""

from __future__ import annotations

import numpy as np

from llcert.checker.activations import Clamp, Leaky


def boxes(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres and boxes, many of them with an end, the centre or everything on a knot."""
    c = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0, *rng.normal(size=5)], n)
    return c, c - rng.choice([0.0, 0.5, 1.0, rng.random()], n), c + rng.choice([0.0, 0.5, 1.0, rng.random()], n)


def random_activation(rng: np.random.Generator, n: int) -> Clamp | Leaky:
    """An activation of n entries, each with its own slope or thresholds."""
    if rng.random() < 0.5:
        return Leaky(rng.choice([-1.0, 0.0, 0.1, 1.0, 2.0, -0.3], n))
    low = rng.choice([-np.inf, -0.5, 0.0], n)
    return Clamp(low, np.maximum(low, rng.choice([np.inf, 0.0, 0.5, 1.0], n)))
