"""The error of a scaled and masked matrix is what is said of it, against extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from random_layers import computed_matrix, random_layer

from llcert.spectral.proof.scaling import scaled


def test_errors_of_masked_matrices_are_covered(request: pytest.FixtureRequest) -> None:
    for seed in range(request.config.getoption("--layers")):
        layer = random_layer(seed)
        entries, exponent = computed_matrix(layer)
        factors = scaled(layer.masked, exponent)
        for image in range(2):
            r, c = (f[image].numpy() for f in (factors.rows, factors.columns))
            computed = r[:, None] * np.ldexp(entries.astype(np.float64), -exponent) * c
            masks = [
                f[image].flatten().numpy().astype(np.longdouble) for f in (layer.masked.rows, layer.masked.columns)
            ]
            exact = np.ldexp(masks[0][:, None] * layer.matrix * masks[1], -int(factors.exponent[image]))
            wrong = np.linalg.norm((computed - exact).astype(np.float64), 2)
            assert wrong <= float(factors.error[image]), (seed, layer.kind)
