"""Certification of batches of images: stages in a cascade, proofs of what they certify, and attacks.

`Certifier` is the entry; `llcert.certification.cascade` runs its stages (docs/method.md, sections 13 to 15).
"""

from llcert.certification.attack import Adversary, Attacked
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.cascade import cascade
from llcert.certification.certifier import Certifier
from llcert.certification.estimator import Estimator
from llcert.certification.footprint import Footprint, batch_size_for, check_one_image_fits
from llcert.certification.perturbations import Perturbations
from llcert.certification.pgd import PGD, AttackLoss, TargetedPGD
from llcert.certification.proof.build import Checkable
from llcert.certification.proof.evidence import KeptProof, ObjectiveEvidence, Proof, Regions
from llcert.certification.proof.prover import Prover
from llcert.certification.radii import Eps, Radii, radii_of
from llcert.certification.result import BatchResult, Contradiction, Sample, StageCount
from llcert.certification.self_check import SelfCheck
from llcert.certification.settings import AttackKind, Semantics, Settings
from llcert.certification.specification import FIRST, Never, Specification, Top, claim_json, positive
from llcert.certification.stages.attack import Attack, TargetedAttack
from llcert.certification.stages.branch import Branch
from llcert.certification.stages.clean import Clean
from llcert.certification.stages.crown_ball import CrownBall
from llcert.certification.stages.global_bound import Global
from llcert.certification.stages.local import Local
from llcert.certification.verdict import Assurance, Finding, LayerMeasure, Stage, Verdict

__all__ = [
    "FIRST",
    "PGD",
    "Adversary",
    "Assurance",
    "Attack",
    "AttackKind",
    "AttackLoss",
    "Attacked",
    "Batch",
    "BatchResult",
    "BoundsSoFar",
    "Branch",
    "Certifier",
    "Checkable",
    "Clean",
    "Contradiction",
    "CrownBall",
    "Eps",
    "Estimator",
    "Finding",
    "Footprint",
    "Global",
    "KeptProof",
    "LayerMeasure",
    "Local",
    "Never",
    "ObjectiveEvidence",
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
    "TargetedAttack",
    "TargetedPGD",
    "Top",
    "Verdict",
    "batch_size_for",
    "cascade",
    "check_one_image_fits",
    "claim_json",
    "positive",
    "radii_of",
]
