"""The report of a certification: printed by rich for people, a JSON object for programs (docs/cli.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcert.certification import Assurance, Radii, claim_json
from llcert.reporting.diagnosis import held_down_by, warnings
from llcert.reporting.numbers import finite
from llcert.reporting.summary import LayerReport, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Report(Summary):
    """The result of a certification, complete or interrupted."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; None for what was not computed. No number is NaN or infinite."""
        subject = self.subject
        return {
            "model": subject.model,
            "model_sha256": subject.model_sha256,
            "eps": None if isinstance(subject.settings.eps, Radii) else subject.settings.eps,
            "norm": "L2",
            "data": subject.data,
            "samples": len(self.samples),
            "assurance": subject.settings.assurance.value,
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
            "semantics": None if subject.settings.assurance is Assurance.ESTIMATE else subject.settings.semantics.value,
            "failure_probability": self.failure_probability,
            "certified_as": {a.value: self.backed(a) for a in Assurance if not a.stronger(subject.settings.assurance)},
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
            "seed": subject.settings.seed,
            "weights_sha256": subject.weights_sha256,
            "runtime_difference": None if subject.parity is None else finite(subject.parity),
            "normalisation": subject.normalisation,
            "assurance_words": self.assurance_words,
            "notes": list(subject.notes),
            "warnings": list(self.warnings),
            "held_down_by": held_down_by(self),
            "radii": [s.eps for s in self.samples] if isinstance(subject.settings.eps, Radii) else None,
            "claim": claim_json(subject.settings.specification, subject.settings.within),
            "claim_words": subject.claim_words,
            "left_out": subject.left_out,
            "attack": subject.settings.attack.value if "attack" in subject.settings.running else None,
            "attacked_accuracy_in_range": self.attacked_accuracy_in_range,
            "disputed": self.disputed,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs that the run is not what the user meant, one sentence each."""
        return warnings(self)

    def __rich__(self) -> RenderableType:
        from llcert.reporting.console import render

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
