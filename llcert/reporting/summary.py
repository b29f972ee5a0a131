"""The numbers of a certification: counts of verdicts, accuracies, norms and times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from llcert.certification import Assurance, Sample, Semantics, StageCount, Verdict
from llcert.reporting.subject import Layer, Subject

ASSURANCE_WORDS: Mapping[Assurance, str] = {
    Assurance.ESTIMATE: (
        "An estimate, not a proof: norms come from an iteration, which approaches each norm from below, and "
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
    Semantics.DEPLOYED: (
        "It holds for the network in real numbers, and as deployed: in its own number formats, sums in any order."
    ),
    Semantics.REAL: "It holds for the network in real numbers; a deployed one rounds.",
}


@dataclass(frozen=True)
class LayerReport:
    """The measures of a layer over the images that the local stage saw; None where it saw none.

    varying: mean share of the layer's outputs that may vary over the ball. iterations: a histogram of the iterations of
    its norm, `(lowest, highest, images)` for each of several equal intervals.
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
    """How many images got a verdict from a stage.

    stage: None for images that no stage decided. in_range: for attacked images, whether their counterexamples lie in
    the pixel range; else None.
    """

    verdict: Verdict
    stage: str | None
    count: int
    in_range: bool | None = None


@dataclass(frozen=True)
class Summary:
    """The numbers of a certification, complete or interrupted. Accuracies are shares of all its samples.

    samples: one record an image, in order. stages: one count a stage, over all batches. local_lipschitz_mean: of the
    images that the local stage saw. growth_median: of the undecided images, radius of the last hidden values over eps.
    seconds: wall clock of all batches.
    """

    subject: Subject
    samples: tuple[Sample, ...]
    stages: tuple[StageCount, ...]
    layers: tuple[LayerReport, ...]
    local_lipschitz_mean: float | None
    growth_median: float | None
    seconds: float
    outcomes: tuple[Outcome, ...] = field(default=())

    def count(self, verdict: Verdict) -> int:
        """How many images got this verdict."""
        return sum(o.count for o in self.outcomes if o.verdict is verdict)

    def attacked(self, *, in_range: bool) -> int:
        """How many images have a counterexample in the pixel range, or only one outside it."""
        return sum(o.count for o in self.outcomes if o.verdict is Verdict.ATTACKED and o.in_range is in_range)

    @property
    def disputed(self) -> int:
        """How many images may not be certified because the file or module itself answers otherwise at them."""
        return sum(s.disputed for s in self.samples)

    @property
    def complete(self) -> bool:
        """Whether every image that was asked for has its verdict."""
        return len(self.samples) == self.subject.asked

    @property
    def clean_accuracy(self) -> float:
        """Share of images at which the specification holds: by default, that the label is strictly first."""
        return self._share(len(self.samples) - self.count(Verdict.MISCLASSIFIED))

    @property
    def attacked_accuracy(self) -> float | None:
        """Share of images without a counterexample, certified ones among them; None where no attack was run."""
        if "attack" not in self.subject.settings.running:
            return None
        return self._share(len(self.samples) - self.count(Verdict.MISCLASSIFIED) - self.count(Verdict.ATTACKED))

    @property
    def attacked_accuracy_in_range(self) -> float | None:
        """Share of images without a counterexample in the pixel range; None where no attack was run."""
        if self.attacked_accuracy is None:
            return None
        broken = self.count(Verdict.ATTACKED) - self.attacked(in_range=False)
        return self._share(len(self.samples) - self.count(Verdict.MISCLASSIFIED) - broken)

    @property
    def certified_accuracy(self) -> float | None:
        """Share of images that are certified; None where no stage that certifies was run."""
        if set(self.subject.settings.running) <= {"attack", "targeted"}:
            return None
        return self._share(self.count(Verdict.CERTIFIED))

    @property
    def radius_curve(self) -> tuple[tuple[float, float], ...]:
        """Certified accuracy at eleven radii from 0 to the largest finite one, `(radius, share)`.

        At radius 0 alone where all are infinite; empty where no radius was searched for.
        """
        radii = [s.radius for s in self.samples if s.radius is not None]
        if not radii:
            return ()
        largest = max((r for r in radii if r < math.inf), default=0.0)
        steps = [largest * i / 10 for i in range(11)] if largest > 0 else [0.0]
        return tuple((step, self._share(sum(r >= step and r > 0 for r in radii))) for step in steps)

    @property
    def unbounded(self) -> int | None:
        """How many images are certified at every radius; None where no radius was searched for."""
        radii = [s.radius for s in self.samples if s.radius is not None]
        return sum(r == math.inf for r in radii) if radii else None

    def _share(self, count: int) -> float:
        return count / len(self.samples) if self.samples else 0.0

    def backed(self, assurance: Assurance) -> int:
        """How many images are certified under this assurance or a stronger one, or would be, as far as was tried."""
        backing = [s.assurance for s in self.samples if s.assurance is not None]
        return sum(a is assurance or a.stronger(assurance) for a in backing)

    @property
    def failure_probability(self) -> float | None:
        """Upper bound of the probability that any certificate is wrong; None where certificates are not probabilistic.

        The union bound over all images whose proof may have been tried, certified or not: which of them are certified
        depends on the random starts.
        """
        if self.subject.settings.assurance is not Assurance.PROBABILISTIC:
            return None
        return min(1.0, self.subject.settings.delta * (len(self.samples) - self.count(Verdict.MISCLASSIFIED)))

    @property
    def assurance_words(self) -> str:
        """The assurance of the certificates of this report, in a few sentences."""
        words = [ASSURANCE_WORDS[self.subject.settings.assurance]]
        if self.subject.settings.assurance is not Assurance.ESTIMATE:
            words.append(SEMANTICS_WORDS[self.subject.settings.semantics])
        if self.failure_probability is not None:
            words.append(
                f"The probability that any of these certificates is wrong is at most {self.failure_probability:.1e}."
            )
        weaker = [
            a for a in Assurance if self.subject.settings.assurance.stronger(a) and self.certified_accuracy is not None
        ]
        if weaker:
            more = ", ".join(f"{self.backed(a) - self.count(Verdict.CERTIFIED)} more as {a.value}" for a in weaker)
            words.append(f"Weaker assurances would have certified {more}.")
        return " ".join(words)
