"""Verdicts, assurances, and the interface of stages: what each returns for the images it is shown (docs/method.md,
sections 1 and 14).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.proof.evidence import KeptProof
from llcert.certification.proof.hint import ProofHint


class Verdict(enum.Enum):
    """The answer for one image; README.md defines each."""

    UNDECIDED = "undecided"
    MISCLASSIFIED = "misclassified"
    ATTACKED = "attacked"
    CERTIFIED = "certified"


class Assurance(enum.Enum):
    """What backs a certificate, weakest first; a report has one of them."""

    ESTIMATE = "estimate"  # no proof: norms by an iteration from below, rounding ignored
    PROBABILISTIC = "probabilistic"  # every norm bound holds with a stated probability
    DETERMINISTIC = "deterministic"  # every number is a bound, rounding included

    def stronger(self, other: Assurance) -> bool:
        """Whether this assurance is stronger than another."""
        order = list(Assurance)
        return order.index(self) > order.index(other)


@dataclass(frozen=True)
class LayerMeasure:
    """The measures of one term over the images of the local stage.

    norm: of its masked map, `[images]`. iterations: of the solver, `[images]`. varying: share of the block's outputs
    that may vary, `[images]`.
    """

    norm: Tensor
    iterations: Tensor
    varying: Tensor


@dataclass(frozen=True)
class Finding:
    """The findings of a stage about its images; None for what it does not compute.

    decided: boolean `[images]`; NaN never decides. margin: lower bounds of the worst-case margin, `[images]`.
    lipschitz: local Lipschitz constants (eq. 6), `[images]`. radius_growth: radius of the last hidden values over eps,
    `[images]`. layers: one measure a term.
    counterexample: of an attack, `[images, *shape]`, the point of the largest loss where none was found; in_range:
    whether it lies in the pixel range, boolean `[images]`.
    hints: how the certificates may be proved, cheapest first. proofs: of the certificates, where their evidence is
    kept. assurance: of the certificates. weaker: what would be certified under weaker assurances, boolean `[images]`
    each. so_far: what later stages are given in place of what this one was given.
    """

    decided: Tensor
    margin: Tensor | None = None
    lipschitz: Tensor | None = None
    radius_growth: Tensor | None = None
    layers: tuple[LayerMeasure, ...] = ()
    counterexample: Tensor | None = None
    in_range: Tensor | None = None
    hints: tuple[ProofHint, ...] = ()
    proofs: tuple[KeptProof, ...] = ()
    assurance: Assurance = Assurance.ESTIMATE
    weaker: Mapping[Assurance, Tensor] = field(default_factory=dict)
    so_far: BoundsSoFar | None = None


class Stage(Protocol):
    """Decides what it can about some images. Must leave undecided rather than guess, also for NaN."""

    @property
    def name(self) -> str: ...

    @property
    def verdict(self) -> Verdict:
        """The verdict on the images that it decides."""
        ...

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        """so_far: what earlier stages found out about these images."""
        ...


class CertifyingStage(Stage, Protocol):
    """A stage that certifies from estimates, and leaves hints by which its certificates may be proved."""

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        """All hints that it may leave for one image, without the relaxations and covers that it finds."""
        ...
