"""Adds up the results of batches to a report."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Context, Decimal

from llcert.certification import BatchResult, Sample, StageCount, Verdict
from llcert.certification.verdict import LayerMeasure
from llcert.reporting.numbers import histogram, mean, median
from llcert.reporting.report import Report
from llcert.reporting.subject import Layer, Subject
from llcert.reporting.summary import LayerReport, Outcome

_DIGITS = 9
_ORDER = (Verdict.CERTIFIED, Verdict.UNDECIDED, Verdict.ATTACKED, Verdict.MISCLASSIFIED)


class Tally:
    """The results of the batches so far; equal results in the same order give equal reports, but for times."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._samples: list[Sample] = []
        self._stages: dict[str, StageCount] = {}
        self._layers: list[_LayerColumns] = [_LayerColumns() for _ in subject.layers]

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, result: BatchResult) -> None:
        """Adds one batch."""
        self._samples.extend(rounded(sample) for sample in result.samples)
        for stage in result.stages:
            before = self._stages.get(stage.name, StageCount(stage.name, 0, 0, 0.0))
            self._stages[stage.name] = StageCount(
                stage.name, before.seen + stage.seen, before.decided + stage.decided, before.seconds + stage.seconds
            )
        if result.layers:
            for columns, measure in zip(self._layers, result.layers, strict=True):
                columns.add(measure)

    def report(self) -> Report:
        """The report on everything added so far."""
        local = [s.local_lipschitz for s in self._samples if s.local_lipschitz is not None]
        growth = [
            s.radius_growth for s in self._samples if s.radius_growth is not None and s.verdict is Verdict.UNDECIDED
        ]
        return Report(
            subject=self.subject,
            samples=tuple(self._samples),
            stages=tuple(self._stages.values()),
            layers=tuple(c.report(layer) for c, layer in zip(self._layers, self.subject.layers, strict=True)),
            local_lipschitz_mean=mean(local),
            growth_median=median(growth),
            seconds=sum(s.seconds for s in self._samples),
            outcomes=self._outcomes(),
        )

    def _outcomes(self) -> tuple[Outcome, ...]:
        counts = Counter((s.verdict, s.stage, s.in_range) for s in self._samples)
        stages = [None, *self._stages]
        ordered = sorted(counts, key=lambda key: (_ORDER.index(key[0]), not key[2], stages.index(key[1])))
        return tuple(Outcome(v, stage, counts[v, stage, within], within) for v, stage, within in ordered)


class _LayerColumns:
    """The measures of one layer, one entry for each image that the local stage saw."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.iterations: list[int] = []
        self.varying: list[float] = []

    def add(self, measure: LayerMeasure) -> None:
        self.norms.extend(measure.norm.tolist())
        self.iterations.extend(measure.iterations.tolist())
        self.varying.extend(measure.varying.tolist())

    def report(self, layer: Layer) -> LayerReport:
        if not self.iterations:
            return LayerReport(layer)
        return LayerReport(
            layer,
            local_norm_mean=mean(self.norms),
            local_norm_median=median(self.norms),
            varying=mean(self.varying),
            iterations_mean=mean(self.iterations),
            iterations_max=max(self.iterations),
            iterations=histogram(self.iterations),
        )


def rounded(sample: Sample) -> Sample:
    """The sample with its measures rounded to 9 digits, as they are written to disk: lower bounds downwards."""
    return replace(
        sample,
        margin=_rounded_down(sample.margin),
        local_lipschitz=_round(sample.local_lipschitz),
        radius_growth=_round(sample.radius_growth),
        radius=_rounded_down(sample.radius),
    )


def _rounded_down(value: float | None) -> float | None:
    """A lower bound, rounded down."""
    nearest = _round(value)
    if value is None or nearest is None or nearest <= value:
        return nearest
    decimal = Decimal(f"{value:.{_DIGITS - 1}e}")
    return float(decimal.next_minus(Context(prec=_DIGITS)))


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
