"""Results as JSON: what passes through a file is as it was."""

from __future__ import annotations

import random

from llcert.certification import Sample, Verdict
from llcert.reporting.tally import rounded


def test_rounding_twice_changes_nothing() -> None:
    """Batches pass through a file on their way, and their bytes may not depend on it."""
    moment = random.Random(0)
    for _ in range(10_000):
        radius = moment.choice(
            [
                moment.random(),
                moment.random() * 10 ** moment.uniform(-6, 3),
                moment.random() * 10 ** moment.uniform(-307, 307),
                moment.randrange(99) / 7,
            ]
        )
        once = rounded(Sample(0, 0, 0, Verdict.CERTIFIED, None, None, None, None, 0.0, radius=radius))
        assert once.radius is not None
        assert once.radius <= radius <= once.radius * (1 + 2e-8)
        assert rounded(once).radius == once.radius
