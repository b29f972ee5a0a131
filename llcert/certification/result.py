"""The results of a batch: a sample for each image, a count for each stage, and the evidence of proofs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llcert.certification.proof.evidence import KeptProof
from llcert.certification.verdict import Assurance, LayerMeasure, Verdict
from llcert.errors import NumericalError


@dataclass(frozen=True)
class StageCount:
    """How many images of one batch a stage has seen and decided. seconds: wall clock."""

    name: str
    seen: int
    decided: int
    seconds: float


@dataclass(frozen=True)
class Sample:
    """The record of one image; None for what was not computed.

    index: in the data set. prediction: the class that the network answers. stage: the name of the stage that decided;
    None if none did. margin: the best lower bound of the worst-case margin. local_lipschitz: eq. 6 of the paper.
    radius_growth: radius of the last hidden values over eps. seconds: its share of the batch's wall clock.
    assurance: the strongest one under which the image would be certified. radius: the largest radius at which the
    search certified it, in pixel units; infinite where it is certified at every one; None without a search. eps: the
    radius of its ball, in pixel units. in_range: for an attacked image, whether the counterexample lies in the pixel
    range. disputed: whether nothing may be certified because the file or module itself answers otherwise at the image.
    within: the pixel range that the specification is restricted to; None where it is about the whole ball.
    """

    index: int
    label: int
    prediction: int
    verdict: Verdict = Verdict.UNDECIDED
    stage: str | None = None
    margin: float | None = None
    local_lipschitz: float | None = None
    radius_growth: float | None = None
    seconds: float = 0.0
    assurance: Assurance | None = None
    radius: float | None = None
    eps: float | None = None
    in_range: bool | None = None
    disputed: bool = False
    within: tuple[float, float] | None = None


@dataclass(frozen=True)
class BatchResult:
    """The results of one batch.

    samples: one an image, in the order of the batch. stages: one count a stage, in the order in which they ran. layers:
    the measures of the local stage, one for each term of the program, over the images that it saw; empty where it saw
    none. proofs: of the certificates, where their evidence is kept; several stages may have proved an image.
    """

    samples: tuple[Sample, ...]
    stages: tuple[StageCount, ...]
    layers: tuple[LayerMeasure, ...]
    proofs: tuple[KeptProof, ...] = ()


class Contradiction(NumericalError):
    """An image that is certified and broken at once: a bug of llcert.

    Carries the image and the counterexample, `[*input shape]`, so that it can be reproduced.
    """

    def __init__(self, index: int, label: int, image: Tensor, counterexample: Tensor) -> None:
        super().__init__(f"image {index} is certified and broken at once: a bug in llcert, not a verdict")
        self.index, self.label, self.image, self.counterexample = index, label, image, counterexample
