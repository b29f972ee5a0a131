"""The stages of a certification: those of the settings, with what the settings say of each."""

from __future__ import annotations

import pytest
import torch
from discs import planar

from llcert.bounds import global_bound
from llcert.bounds.backward.branch_and_bound import BranchAndBound
from llcert.certification import PGD, Attack, AttackKind, AttackLoss, Branch, Estimator, Never, Settings, TargetedAttack
from llcert.certification.stages.build import ATTACKING, CERTIFYING, attacking_stages, certifying_stages
from llcert.domain.pixel_range import PixelRange
from llcert.options import RUNNING, STAGES
from llcert.program import lower

NETWORK = planar(0)
PROGRAM = lower(NETWORK, dtype=torch.float64)
ESTIMATOR = Estimator(PROGRAM, global_bound(PROGRAM))


def test_every_stage_that_can_run_is_built_by_its_name() -> None:
    assert sorted((*CERTIFYING, *ATTACKING)) == sorted(RUNNING)
    settings = Settings(0.1, stages=STAGES)
    built = {**certifying_stages(settings, ESTIMATOR), **attacking_stages(settings, NETWORK, PROGRAM)}
    assert {name: stage.name for name, stage in built.items()} == {name: name for name in RUNNING}


@pytest.mark.parametrize("stages", [("global",), ("branch", "local"), ("attack",)])
def test_no_other_stage_is_built(stages: tuple[str, ...]) -> None:
    settings = Settings(0.1, stages=stages, attack=AttackKind.PAPER)
    built = [*certifying_stages(settings, ESTIMATOR), *attacking_stages(settings, NETWORK, PROGRAM)]
    assert sorted(built) == sorted(stages)


def test_stages_have_what_the_settings_say() -> None:
    settings = Settings(
        0.1,
        stages=("attack", "branch"),
        branch_seconds=3.0,
        pgd=PGD(steps=7),
        specification=Never(1),
        clip_input=True,
        pixel_range=PixelRange.of("0", "0.5"),
    )
    branch = certifying_stages(settings, ESTIMATOR)["branch"]
    assert isinstance(branch, Branch)
    assert branch.search == BranchAndBound(seconds=3.0)
    for stage in attacking_stages(settings, NETWORK, PROGRAM).values():
        assert isinstance(stage, Attack | TargetedAttack)
        assert (stage.adversary.specification, stage.adversary.pixels) == (Never(1), settings.pixel_range)
        assert stage.adversary.restricted
        if isinstance(stage, Attack):
            assert stage.pgd == PGD(steps=7, loss=AttackLoss.MARGIN)


def test_a_counterexample_must_convince_the_network_in_its_own_formats() -> None:
    """The network in float64 runs in float64; the estimates' program is coarser here."""
    coarse = lower(NETWORK, dtype=torch.float32)
    (stage,) = attacking_stages(Settings(0.1, stages=("attack",), attack=AttackKind.PAPER), NETWORK, coarse).values()
    assert isinstance(stage, Attack)
    assert stage.adversary.deployed is not None
    points = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(stage.adversary.deployed(points), NETWORK(points))
