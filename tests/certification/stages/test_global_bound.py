"""The stage global: the margin that dense norms give, or that a constant of the pair gives where that is less."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import batch_of, decided
from discs import images_of, planar

from llcert.bounds import global_bound
from llcert.certification import Estimator, Global
from llcert.ops import Linear
from llcert.program import lower


@pytest.mark.parametrize("seed", range(4))
def test_margins_are_those_of_dense_norms(seed: int) -> None:
    network, eps = planar(seed), 0.03
    program = lower(network, dtype=torch.float64)
    images, labels = images_of(program, 20)
    first, last = (n.op.weight for n in network.operators() if isinstance(n.op, Linear))
    logits = program.logits(images)
    apart = torch.linalg.vector_norm(last[labels][:, None] - last, dim=2) * torch.linalg.matrix_norm(first, 2)
    bounds = logits.gather(1, labels[:, None]) - logits - eps * apart
    expected = bounds.scatter(1, labels[:, None], torch.inf).amin(1)
    bound = global_bound(program)
    found = decided(Global(Estimator(program, bound)), program, batch_of(images, labels, eps))
    torch.testing.assert_close(found.margin, expected, rtol=0, atol=1e-4 * float(eps * apart.max()))
    assert torch.equal(found.decided, expected > 0)
    assert bool(found.decided.any())

    pairs = apart / 2 + 1  # less than the product for some pairs alone
    found = decided(Global(Estimator(program, replace(bound, pairs=pairs[:3]))), program, batch_of(images, labels, eps))
    both = torch.minimum(apart, pairs[:3][labels])
    expected = (logits.gather(1, labels[:, None]) - logits - eps * both).scatter(1, labels[:, None], torch.inf).amin(1)
    torch.testing.assert_close(found.margin, expected, rtol=0, atol=1e-4 * float(eps * apart.max()))
