"""What a proof adds for a checker: nothing where none was asked for, and never less than nothing."""

from __future__ import annotations

import torch
from random_graphs import random_image, random_network

from llcert.bounds import TIGHT, CheckerSlack, VerifiedArithmetic, propagate
from llcert.bounds.forward.box import box
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.program import lower
from llcert.spectral import VerifiedCholesky

NUMBERS = torch.tensor([0.0, 5e-324, 1e-310, 1e-30, 0.1, 1.0, 3.5, 1e300, torch.inf, torch.nan], dtype=torch.float64)


def test_none_changes_no_bit() -> None:
    for same in (TIGHT.error, TIGHT.weights, TIGHT.radius, lambda x: TIGHT.norm(x, 5), lambda x: TIGHT.box_error(x, x)):
        assert same(NUMBERS) is NUMBERS
    assert TIGHT.products == 0


def test_a_checkers_makes_nothing_smaller() -> None:
    slack = CheckerSlack(box)
    sizes = torch.full_like(NUMBERS, 2.0)
    for found in (
        slack.error(NUMBERS),
        slack.weights(NUMBERS),
        slack.radius(NUMBERS),
        slack.norm(NUMBERS, 5),
        slack.box_error(NUMBERS, sizes),
    ):
        assert torch.equal(found.isnan(), NUMBERS.isnan())
        assert bool((found >= NUMBERS)[:-1].all())
    assert bool((slack.radius(NUMBERS) > 0)[:-1].all())
    assert float(slack.weights(torch.ones(()))) == 1
    assert bool((slack.box_error(NUMBERS, sizes) >= 2e-9)[:-1].all())


def test_regions_with_room_hold_those_without() -> None:
    for seed in range(8):
        network = random_network(seed)
        program = lower(network, dtype=torch.float64)
        region = enclosing_ball(random_image(network, seed).double(), 0.1)
        with torch.no_grad():
            bound = proved_bound(program, VerifiedCholesky())
            tight, wide = (
                propagate(program, region, VerifiedArithmetic(bound, VerifiedCholesky(), slack=slack))
                for slack in (TIGHT, CheckerSlack(box))
            )
        for block in program.blocks:
            inner, outer = (t.post_activation[block.node].region for t in (tight, wide))
            assert bool(((outer.lower <= inner.lower) & (outer.upper >= inner.upper)).all()), block.label
            assert bool((outer.radius >= inner.radius).all()), block.label
