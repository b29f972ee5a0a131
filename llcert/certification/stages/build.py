"""Builds the stages of one certification from its settings, by name (docs/method.md, section 14)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from llcert.bounds.backward.branch_and_bound import BranchAndBound
from llcert.certification.attack import Adversary
from llcert.certification.estimator import Estimator
from llcert.certification.pgd import PGD, AttackLoss
from llcert.certification.settings import AttackKind, Settings
from llcert.certification.stages.attack import Attack, TargetedAttack
from llcert.certification.stages.branch import Branch
from llcert.certification.stages.crown_ball import CrownBall
from llcert.certification.stages.global_bound import Global
from llcert.certification.stages.local import Local
from llcert.certification.verdict import CertifyingStage, Stage
from llcert.ir import Network, evaluate_as_run
from llcert.program import Program

CERTIFYING: Mapping[str, Callable[[Settings, Estimator], CertifyingStage]] = {
    "global": lambda settings, estimator: Global(estimator),
    "local": lambda settings, estimator: Local(estimator),
    "crown-ball": lambda settings, estimator: CrownBall(estimator),
    "crown-ball-intermediate": lambda settings, estimator: CrownBall(estimator, intermediate=True),
    "branch": lambda settings, estimator: Branch(estimator, BranchAndBound(seconds=settings.branch_seconds)),
}
"""The stages that certify from estimates, by name."""

ATTACKING: Mapping[str, Callable[[Settings, Adversary], Stage]] = {
    "attack": lambda settings, adversary: Attack(adversary, _pgd(settings)),
    "targeted": lambda settings, adversary: TargetedAttack(adversary, settings.targeted_pgd),
}
"""The stages that look for counterexamples, by name."""


def certifying_stages(settings: Settings, estimator: Estimator) -> dict[str, CertifyingStage]:
    """The certifying stages among those asked for, by name; their certificates are estimates."""
    return {name: CERTIFYING[name](settings, estimator) for name in settings.running if name in CERTIFYING}


def attacking_stages(settings: Settings, network: Network, program: Program) -> dict[str, Stage]:
    """The attacking stages among those asked for, by name. program: the network in the format of the estimates.

    A counterexample also refutes the specification by what the file or module itself answers, or by the network in its
    own formats where it was made here.
    """
    original = network.original
    deployed = partial(evaluate_as_run, network.output) if original is None else original.logits
    adversary = Adversary(program, deployed, settings.specification, settings.pixel_range, settings.clip_input)
    return {name: ATTACKING[name](settings, adversary) for name in settings.running if name in ATTACKING}


def _pgd(settings: Settings) -> PGD:
    """The attack before the costly bounds."""
    margin = settings.attack is AttackKind.TWO_STAGE
    return replace(settings.pgd, loss=AttackLoss.MARGIN if margin else AttackLoss.LOG_SUM_EXP)
