"""The matrix that is found by products with the map, against extended precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from random_layers import computed_matrix, random_layer


def test_entries_are_those_of_the_map(request: pytest.FixtureRequest) -> None:
    """But for the error that the map says they may have."""
    for seed in range(request.config.getoption("--layers")):
        layer = random_layer(seed)
        map_ = layer.masked.map
        entries, _ = computed_matrix(layer)
        unit = torch.eye(math.prod(map_.columns), dtype=torch.float64).reshape(-1, *map_.columns)
        size = map_.magnitude(unit).flatten(1).T.numpy()  # type: ignore[attr-defined]
        allowed = 1.01 * map_.roundings * 2.0**-53 * size + map_.underflow  # type: ignore[attr-defined]
        assert (np.abs(entries - layer.matrix) <= allowed).all(), (seed, layer.kind)
        assert (size >= np.abs(layer.matrix) * (1 - 1e-12)).all(), (seed, layer.kind)
