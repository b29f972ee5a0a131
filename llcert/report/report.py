"""What a certification found out, as a value: numbers and words, no formatting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llcert.certify import FIRST, Assurance, AttackKind, Claim, Eps, Radii, Sample, Semantics, Verdict, stated
from llcert.region import UNIT, PixelRange
from llcert.report.diagnosis import contradicted, held_down_by, near_chance

if TYPE_CHECKING:
    from rich.console import RenderableType

ASSURANCE_WORDS: Mapping[Assurance, str] = {
    Assurance.ESTIMATE: (
        "An estimate, not a proof: norms come from power iteration, which approaches each norm from below, and "
        "rounding is not accounted for. It is the practice of the literature; the bounds may be too small by the "
        "iteration's error. docs/soundness.md says how large it was where it was measured."
    ),
    Assurance.PROBABILISTIC: (
        "Norms are bounds that hold with a stated probability over the solver's own random starts; every other number "
        "is a bound, rounding included."
    ),
    Assurance.DETERMINISTIC: "A proof: every number is a bound, rounding included.",
}


SEMANTICS_WORDS: Mapping[Semantics, str] = {
    Semantics.FLOAT32: "It holds for the network in real numbers, and as its own format evaluates it in any order.",
    Semantics.REAL: "It holds for the network in real numbers; a deployed one rounds.",
}


@dataclass(frozen=True)
class Layer:
    """One term of one block of the network. global_norm: of the unmasked map, its activation's slope included."""

    name: str
    operator: str
    global_norm: float


@dataclass(frozen=True)
class Subject:
    """What was asked, and what is known before the first image.

    eps: radius in pixel units, of all images or of each; eps_text: as the user wrote it, or where the radii come from.
    asked: how many images are asked about; selection: from which, as `A:B`; left_out: how many of these are not.
    attack: of which kind. clip_input: whether the claim is about points in the pixel range alone; clippable: whether
    that would be less. normalisation: one sentence. notes: what the importer did. warnings: what a user should not
    overlook.
    """

    model: str
    model_sha256: str | None
    weights_sha256: str
    eps: Eps
    eps_text: str
    data: str
    split: str
    selection: str
    asked: int
    classes: int
    assurance: Assurance
    semantics: Semantics
    delta: float
    stages: tuple[str, ...]
    layers: tuple[Layer, ...]
    global_lipschitz: float
    normalisation: str
    device: str
    dtype: str
    batch_size: int
    seed: int
    versions: Mapping[str, str]
    attack: AttackKind = AttackKind.TARGETED
    clippable: bool = True
    parity: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    claim: Claim = FIRST
    left_out: int = 0
    pixel_range: PixelRange = UNIT
    clip_input: bool = False

    @property
    def within(self) -> PixelRange | None:
        """The range of pixels that the claim is restricted to; None where it is about whole balls."""
        return self.pixel_range if self.clip_input else None

    @property
    def claim_words(self) -> str:
        """What is claimed, as the end of a sentence about every point of the ball."""
        limit = f", as long as all pixels stay in {self.pixel_range.words}" if self.clip_input else ""
        return f"{self.claim.words}{limit}"

    @property
    def middle_eps(self) -> float:
        """The radius, or the median of the radii."""
        return statistics.median(self.eps.values) if isinstance(self.eps, Radii) else self.eps


@dataclass(frozen=True)
class StageReport:
    """What one stage did in total. seconds: wall clock."""

    name: str
    seen: int
    decided: int
    seconds: float


@dataclass(frozen=True)
class LayerReport:
    """A layer and its measures over the images of the local stage; None where no image reached it.

    varying: mean share of the layer's outputs that may vary in the ball. iterations: counts of equal intervals, each
    `(lowest, highest, images)`.
    """

    layer: Layer
    local_norm_mean: float | None = None
    local_norm_median: float | None = None
    varying: float | None = None
    iterations_mean: float | None = None
    iterations_max: int | None = None
    iterations: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How many images got a verdict from a stage; stage is None for those that no stage decided.

    in_range: of attacked ones, whether the point that refutes the claim lies in the pixel range; else None.
    """

    verdict: Verdict
    stage: str | None
    count: int
    in_range: bool | None = None


@dataclass(frozen=True)
class Report:
    """The result of a certification, complete or as far as it came. Accuracies are shares of all its samples.

    samples: one record an image, in order. seconds: wall clock of all batches. growth_median: of the images left
    undecided, radius of the last hidden values over eps.
    """

    subject: Subject
    samples: tuple[Sample, ...]
    stages: tuple[StageReport, ...]
    layers: tuple[LayerReport, ...]
    local_lipschitz_mean: float | None
    growth_median: float | None
    seconds: float
    outcomes: tuple[Outcome, ...] = field(default=())

    def count(self, verdict: Verdict) -> int:
        """How many images got this verdict."""
        return sum(o.count for o in self.outcomes if o.verdict is verdict)

    def attacked(self, *, in_range: bool) -> int:
        """How many images are broken by a point in the pixel range, or only by one outside it."""
        return sum(o.count for o in self.outcomes if o.verdict is Verdict.ATTACKED and o.in_range is in_range)

    @property
    def disputed(self) -> int:
        """How many images nothing was certified of because the file or module itself answers otherwise there."""
        return sum(s.disputed for s in self.samples)

    @property
    def complete(self) -> bool:
        """Whether every image that was asked for has its verdict."""
        return len(self.samples) == self.subject.asked

    @property
    def clean_accuracy(self) -> float:
        """Share of which the claim is true without any perturbation: whose label is strictly first, mostly."""
        return self._share(len(self.samples) - self.count(Verdict.MISCLASSIFIED))

    @property
    def attacked_accuracy(self) -> float | None:
        """Share that is correct and that the attack did not break, certified images among them; None if not run."""
        if "attack" not in self.subject.stages:
            return None
        return self._share(len(self.samples) - self.count(Verdict.MISCLASSIFIED) - self.count(Verdict.ATTACKED))

    @property
    def attacked_accuracy_in_range(self) -> float | None:
        """Share that is correct and that the attack did not break by a point in the pixel range; None if not run."""
        if self.attacked_accuracy is None:
            return None
        broken = self.count(Verdict.ATTACKED) - self.attacked(in_range=False)
        return self._share(len(self.samples) - self.count(Verdict.MISCLASSIFIED) - broken)

    @property
    def certified_accuracy(self) -> float | None:
        """Share that is certified; None if no stage that certifies was run."""
        if set(self.subject.stages) <= {"attack", "targeted"}:
            return None
        return self._share(self.count(Verdict.CERTIFIED))

    @property
    def radius_curve(self) -> tuple[tuple[float, float], ...]:
        """Certified accuracy at eleven radii from 0 to the largest, `(radius, share)`; empty where none was asked.

        Of radii that are not infinite; where all are, at radius 0 alone.
        """
        radii = [s.radius for s in self.samples if s.radius is not None]
        if not radii:
            return ()
        largest = max((r for r in radii if r < math.inf), default=0.0)
        steps = [largest * i / 10 for i in range(11)] if largest > 0 else [0.0]
        return tuple((step, self._share(sum(r >= step and r > 0 for r in radii))) for step in steps)

    @property
    def unbounded(self) -> int | None:
        """How many images are certified at every radius; None where no radius was asked."""
        radii = [s.radius for s in self.samples if s.radius is not None]
        return sum(r == math.inf for r in radii) if radii else None

    def _share(self, count: int) -> float:
        return count / len(self.samples) if self.samples else 0.0

    def backed(self, assurance: Assurance) -> int:
        """How many images are, or would be, certified under this assurance or a stronger one, as far as was tried."""
        own = [s.assurance for s in self.samples if s.assurance is not None]
        return sum(a is assurance or a.stronger(assurance) for a in own)

    @property
    def failure_probability(self) -> float | None:
        """Upper bound of the probability that any certificate is wrong, None where it is none.

        By the union bound over all images whose proof may have been tried: which of these are certified depends on what
        was drawn.
        """
        if self.subject.assurance is not Assurance.PROBABILISTIC:
            return None
        return min(1.0, self.subject.delta * (len(self.samples) - self.count(Verdict.MISCLASSIFIED)))

    @property
    def assurance_words(self) -> str:
        """What the certificates of this report are worth."""
        words = [ASSURANCE_WORDS[self.subject.assurance]]
        if self.subject.assurance is not Assurance.ESTIMATE:
            words.append(SEMANTICS_WORDS[self.subject.semantics])
        if self.failure_probability is not None:
            words.append(
                f"The probability that any of these certificates is wrong is at most {self.failure_probability:.1e}."
            )
        weaker = [a for a in Assurance if self.subject.assurance.stronger(a) and self.certified_accuracy is not None]
        if weaker:
            more = ", ".join(f"{self.backed(a) - self.count(Verdict.CERTIFIED)} more as {a.value}" for a in weaker)
            words.append(f"Weaker assurances would have certified {more}.")
        return " ".join(words)

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON values; what was not computed is None, and no number is NaN or infinite."""
        subject = self.subject
        return {
            "model": subject.model,
            "model_sha256": subject.model_sha256,
            "eps": None if isinstance(subject.eps, Radii) else subject.eps,
            "norm": "L2",
            "data": subject.data,
            "samples": len(self.samples),
            "assurance": subject.assurance.value,
            "clean_accuracy": self.clean_accuracy,
            "attacked_accuracy": self.attacked_accuracy,
            "certified_accuracy": self.certified_accuracy,
            "stages": [
                {"name": s.name, "seen": s.seen, "decided": s.decided, "seconds": round(s.seconds, 6)}
                for s in self.stages
            ],
            "layers": [_layer_json(layer) for layer in self.layers],
            "global_lipschitz": finite(subject.global_lipschitz),
            "local_lipschitz_mean": self.local_lipschitz_mean,
            "versions": dict(subject.versions),
            "device": subject.device,
            "seconds": round(self.seconds, 6),
            "semantics": None if subject.assurance is Assurance.ESTIMATE else subject.semantics.value,
            "failure_probability": self.failure_probability,
            "certified_as": {a.value: self.backed(a) for a in Assurance if not a.stronger(subject.assurance)},
            "unbounded": self.unbounded,
            "radius_curve": [list(point) for point in self.radius_curve],
            "eps_text": subject.eps_text,
            "split": subject.split,
            "selection": subject.selection,
            "asked": subject.asked,
            "complete": self.complete,
            "outcomes": [
                {"verdict": o.verdict.value, "stage": o.stage, "in_range": o.in_range, "count": o.count}
                for o in self.outcomes
            ],
            "radius_growth_median": self.growth_median,
            "dtype": subject.dtype,
            "batch_size": subject.batch_size,
            "seed": subject.seed,
            "weights_sha256": subject.weights_sha256,
            "runtime_difference": None if subject.parity is None else finite(subject.parity),
            "normalisation": subject.normalisation,
            "assurance_words": self.assurance_words,
            "notes": list(subject.notes),
            "warnings": list(self.warnings),
            "held_down_by": held_down_by(self),
            "radii": [s.eps for s in self.samples] if isinstance(subject.eps, Radii) else None,
            "claim": stated(subject.claim, subject.within),
            "claim_words": subject.claim_words,
            "left_out": subject.left_out,
            "attack": subject.attack.value if "attack" in subject.stages else None,
            "attacked_accuracy_in_range": self.attacked_accuracy_in_range,
            "disputed": self.disputed,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should not overlook, one sentence each."""
        return (*self.subject.warnings, *near_chance(self), *contradicted(self))

    def __rich__(self) -> RenderableType:
        from llcert.report.console import render

        return render(self)


def _layer_json(report: LayerReport) -> dict[str, Any]:
    return {
        "name": report.layer.name,
        "operator": report.layer.operator,
        "global_norm": finite(report.layer.global_norm),
        "local_norm_mean": report.local_norm_mean,
        "local_norm_median": report.local_norm_median,
        "varying": report.varying,
        "iterations_mean": report.iterations_mean,
        "iterations_max": report.iterations_max,
        "iterations_histogram": [list(interval) for interval in report.iterations],
    }


def finite(value: float) -> float | None:
    """The number, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def mean(values: Iterable[float]) -> float | None:
    """The mean of the finite values, None if there are none."""
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else None


def median(values: Iterable[float]) -> float | None:
    """The median of the finite values, None if there are none."""
    known = [v for v in values if math.isfinite(v)]
    return statistics.median(known) if known else None
