"""Verdicts on images: the stages, their cascade, and the attack that bounds them from above."""

import sys
from types import ModuleType
from typing import Any

from llcert.certify.attack import PGD, Attacked, Deployed, Objective, Target
from llcert.certify.batch import Batch, Known, Traces
from llcert.certify.cascade import BatchResult, Contradiction, Sample, StageCount, cascade
from llcert.certify.certifier import Certifier
from llcert.certify.footprint import Footprint, batch_size_for, check_one_image_fits, multiplications
from llcert.certify.perturbations import Perturbations
from llcert.certify.proof.prover import Prover
from llcert.certify.proof.provers import Checkable
from llcert.certify.proof.record import KeptProof, ObjectiveProof, Proof, Regions
from llcert.certify.radii import Eps, Radii, radii_of
from llcert.certify.self_check import SelfCheck
from llcert.certify.settings import AttackKind, Semantics, Settings
from llcert.certify.specification import FIRST, Never, Specification, Top, positive, stated
from llcert.certify.stages.attack import Adversary, Attack, TargetedAttack
from llcert.certify.stages.branch import Branch
from llcert.certify.stages.clean import Clean
from llcert.certify.stages.crown_ball import CrownBall
from llcert.certify.stages.global_bound import Global
from llcert.certify.stages.local import Local
from llcert.certify.targeted import Targeted
from llcert.certify.verdict import Assurance, Finding, LayerMeasure, Stage, Verdict

__all__ = [
    "FIRST",
    "PGD",
    "Adversary",
    "Assurance",
    "Attack",
    "AttackKind",
    "Attacked",
    "Batch",
    "BatchResult",
    "Branch",
    "Certifier",
    "Checkable",
    "Clean",
    "Contradiction",
    "CrownBall",
    "Deployed",
    "Eps",
    "Finding",
    "Footprint",
    "Global",
    "KeptProof",
    "Known",
    "LayerMeasure",
    "Local",
    "Never",
    "Objective",
    "ObjectiveProof",
    "Perturbations",
    "Proof",
    "Prover",
    "Radii",
    "Regions",
    "Sample",
    "SelfCheck",
    "Semantics",
    "Settings",
    "Specification",
    "Stage",
    "StageCount",
    "Target",
    "Targeted",
    "TargetedAttack",
    "Top",
    "Traces",
    "Verdict",
    "batch_size_for",
    "cascade",
    "check_one_image_fits",
    "multiplications",
    "positive",
    "radii_of",
    "stated",
]


class _Package(ModuleType):
    """This package, which can also be called: `llcert.certify(network, data, eps)` is the function of the same name."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        import llcert

        return llcert.__getattr__("certify")(*arguments, **keywords)


sys.modules[__name__].__class__ = _Package
