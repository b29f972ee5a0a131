"""The stage local: both weights of rows, for whom each is computed, and what it measures."""

from __future__ import annotations

import torch
from batches import batch_of, decided
from discs import images_of, least_margins, planar

from llcert.bounds import RowWeighting, global_bound, worst_margins
from llcert.certification import FIRST, Estimator, Local
from llcert.program import lower

EPS = 0.08


def test_secant_weights_are_for_what_stays_open() -> None:
    program = lower(planar(2, layers=2), dtype=torch.float64)
    images, labels = images_of(program, 40)
    estimator, batch = Estimator(program, global_bound(program)), batch_of(images, labels, EPS)
    masked, secant = (
        FIRST.margin(
            worst_margins(
                program.logits(images), labels, estimator.last, estimator.trace(batch, weighting).post_activation
            ),
            labels,
            3,
        )
        for weighting in (RowWeighting.SLOPE, RowWeighting.SECANT)
    )
    found = decided(Local(estimator), program, batch)
    assert found.margin is not None
    torch.testing.assert_close(found.margin, torch.where(masked > 0, masked, torch.fmax(masked, secant)))
    assert bool(((masked > 0) & (secant > masked * (1 + 1e-6))).any()), "secants would raise what is decided, too"
    assert bool(((masked <= 0) & (secant > masked + 1e-6)).any())
    assert bool((found.margin <= least_margins(program, images, labels, EPS) + 1e-9).all())


def test_every_image_is_measured() -> None:
    program = lower(planar(0, layers=2), dtype=torch.float64)
    images, labels = images_of(program, 40)
    bound = global_bound(program)
    finding = decided(Local(Estimator(program, bound)), program, batch_of(images, labels, 0.05))
    assert finding.lipschitz is not None
    assert finding.radius_growth is not None
    assert (finding.lipschitz <= bound.logit_lipschitz).all()
    assert (finding.radius_growth <= bound.lipschitz[program.blocks[1].node] * (1 + 1e-9)).all()
    assert len(finding.layers) == 3
    for layer in finding.layers:
        assert layer.norm.shape == layer.iterations.shape == layer.varying.shape == (40,)
        assert ((layer.varying >= 0) & (layer.varying <= 1)).all()
