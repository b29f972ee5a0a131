"""What is decided about an image, and what a stage says about the images it was shown."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from llcert.certification.batch import Batch, Known, Traces
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.record import KeptProof


class Verdict(enum.Enum):
    """The answer for one image."""

    UNDECIDED = "undecided"
    MISCLASSIFIED = "misclassified"
    ATTACKED = "attacked"
    CERTIFIED = "certified"


class Assurance(enum.Enum):
    """What backs a certificate, weakest first; never mixed in one report."""

    ESTIMATE = "estimate"  # norms by power iteration: the paper's practice, not a proof
    PROBABILISTIC = "probabilistic"  # every norm bound holds with a stated probability
    DETERMINISTIC = "deterministic"  # every number is a bound, rounding included

    def stronger(self, other: Assurance) -> bool:
        """Whether it says more than another."""
        order = list(Assurance)
        return order.index(self) > order.index(other)


@dataclass(frozen=True)
class LayerMeasure:
    """One term of one block over the images of a local stage.

    norm: `[images]`. iterations: `[images]`. varying: share of the block's outputs that may vary, `[images]`.
    """

    norm: Tensor
    iterations: Tensor
    varying: Tensor


@dataclass(frozen=True)
class Finding:
    """What a stage found out about its images. decided: boolean `[images]`, NaN never decides.

    margin: lower bounds on the worst-case margin, `[images]`. lipschitz: local Lipschitz constants (eq. 6).
    bounds: on the differences of the reference's logit and every other, from below, `[images, logits]`.
    growth: radius of the last hidden values over eps. layers: one measure a term. counterexample: for an attack, the
    points that it found, the worst where none refutes, `[images, *shape]`; in_range: whether their pixels are in the
    pixel range, boolean `[images]`. What a stage does not compute is None.
    hints: for certificates, how they may be proved, cheapest first. proofs: of certificates, where their evidence is
    kept. assurance: of what was decided, if certified. weaker: what would be certified under weaker assurances, boolean
    `[images]` each. traces: all forward passes over these images that later stages may use; None for those it was
    given.
    """

    decided: Tensor
    margin: Tensor | None = None
    lipschitz: Tensor | None = None
    growth: Tensor | None = None
    bounds: Tensor | None = None
    layers: tuple[LayerMeasure, ...] = ()
    counterexample: Tensor | None = None
    in_range: Tensor | None = None
    hints: tuple[ProofHint, ...] = ()
    proofs: tuple[KeptProof, ...] = ()
    assurance: Assurance = Assurance.ESTIMATE
    weaker: Mapping[Assurance, Tensor] = field(default_factory=dict)
    traces: Traces | None = None


class Stage(Protocol):
    """Decides what it can about some images. Must leave undecided rather than guess, also for NaN."""

    @property
    def name(self) -> str: ...

    @property
    def verdict(self) -> Verdict:
        """What it says about the images it decides."""
        ...

    def __call__(self, batch: Batch, known: Known) -> Finding:
        """known: what earlier stages found out about these images."""
        ...
