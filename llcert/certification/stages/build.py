"""The stages of one certification, built from its settings in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from llcert.bounds.backward.branching import Branching
from llcert.certification.attack import PGD, Deployed, Objective, Target
from llcert.certification.proof.prover import Prover
from llcert.certification.proof.stage import Proved
from llcert.certification.settings import AttackKind, Settings
from llcert.certification.stages.attack import Adversary, Attack, TargetedAttack
from llcert.certification.stages.branch import Branch
from llcert.certification.stages.clean import Clean
from llcert.certification.stages.crown_ball import CrownBall
from llcert.certification.stages.global_bound import Global
from llcert.certification.stages.local import Local
from llcert.certification.verdict import Assurance, Stage, Verdict
from llcert.ir import Network, evaluate_as_run


def stages_of(
    network: Network,
    settings: Settings,
    local: Local,
    provers: Mapping[Assurance, Prover],
    *,
    evidence: bool = False,
) -> tuple[Stage, ...]:
    """The clean prediction and the stages that were asked for; those that certify prove what they estimate.

    local: the stage of that name, whose forward passes others use. provers: of the assurance that is asked for and of
    weaker ones; empty for estimates. evidence: whether proofs are returned with their
    evidence.
    """
    target = Target(local.program, _deployed(network), settings.specification)
    adversary = Adversary(target, settings.pixel_range, settings.clip_input)
    stages = [_BUILD[name](settings, local, adversary) for name in settings.running]
    weaker = {a: p for a, p in provers.items() if a is not settings.assurance}
    proved = [
        Proved(s, provers[settings.assurance], settings.assurance, weaker, evidence)
        if provers and s.verdict is Verdict.CERTIFIED
        else s
        for s in stages
    ]
    return (Clean(local.program, settings.specification), *proved)


def _deployed(network: Network) -> Deployed:
    """What the file or the module itself answers; the network in its own formats where it was made here."""
    return partial(evaluate_as_run, network.output) if network.original is None else network.original.logits


def _pgd(settings: Settings) -> PGD:
    """The attack before the costly bounds."""
    margin = settings.attack is AttackKind.TARGETED
    return replace(settings.pgd, objective=Objective.MARGIN if margin else Objective.CROSS_ENTROPY)


_BUILD: dict[str, Callable[[Settings, Local, Adversary], Stage]] = {
    "global": lambda settings, local, _: Global(local.program, local.bound, settings.specification),
    "local": lambda settings, local, _: local,
    "attack": lambda settings, local, adversary: Attack(adversary, _pgd(settings)),
    "crown-ball": lambda settings, local, _: CrownBall(local),
    "crown-ball-intermediate": lambda settings, local, _: CrownBall(local, intermediate=True),
    "targeted": lambda settings, local, adversary: TargetedAttack(adversary, settings.targeted),
    "branch": lambda settings, local, _: Branch(local, Branching(seconds=settings.branch_seconds)),
}
