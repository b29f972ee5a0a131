"""Verdicts on images: the stages, their cascade, and the attack that bounds them from above."""

from llcert.certify.attack import PGD
from llcert.certify.cascade import BatchResult, Contradiction, Sample, StageCount, cascade
from llcert.certify.run import STAGES, Certifier, Settings
from llcert.certify.self_check import SelfCheck
from llcert.certify.stages import Attack, Clean, Global, Local
from llcert.certify.verdict import Assurance, Finding, LayerMeasure, Stage, Verdict

__all__ = [
    "PGD",
    "STAGES",
    "Assurance",
    "Attack",
    "BatchResult",
    "Certifier",
    "Clean",
    "Contradiction",
    "Finding",
    "Global",
    "LayerMeasure",
    "Local",
    "Sample",
    "SelfCheck",
    "Settings",
    "Stage",
    "StageCount",
    "Verdict",
    "cascade",
]
