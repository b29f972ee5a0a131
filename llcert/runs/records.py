"""Results as JSON and back: a line of `samples.jsonl` an image, a line of `batches.jsonl` a batch (docs/cli.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from llcert.certificate_writer import ImageEvidence
from llcert.certification import Assurance, BatchResult, LayerMeasure, Sample, StageCount, Verdict
from llcert.options import stage_name
from llcert.reporting.tally import rounded


@dataclass(frozen=True)
class BatchOutcome:
    """The result of a batch, and the evidence of its certified images, by their indices in the data set, where it is
    kept."""

    result: BatchResult
    evidence: Mapping[int, ImageEvidence] = field(default_factory=dict)


def sample_json(sample: Sample) -> dict[str, Any]:
    """An image's line in `samples.jsonl`."""
    sample = rounded(sample)
    return {
        "index": sample.index,
        "label": sample.label,
        "prediction": sample.prediction,
        "verdict": sample.verdict.value,
        "stage": sample.stage,
        "margin": sample.margin,
        "local_lipschitz": sample.local_lipschitz,
        "radius_growth": sample.radius_growth,
        "assurance": None if sample.assurance is None else sample.assurance.value,
        "radius": None if sample.radius == math.inf else sample.radius,
        "unbounded": sample.radius == math.inf,
        "eps": sample.eps,
        "in_range": sample.in_range,
        "disputed": sample.disputed,
        "within": sample.within,
    }


def batch_json(result: BatchResult) -> dict[str, Any]:
    """A batch's line in `batches.jsonl`: what the report needs beyond the lines of its images."""
    return {
        "seconds": result.samples[0].seconds,
        "stages": [[s.name, s.seen, s.decided, s.seconds] for s in result.stages],
        "layers": [
            {name: _numbers(getattr(layer, name)) for name in ("norm", "iterations", "varying")}
            for layer in result.layers
        ],
    }


def _numbers(values: torch.Tensor) -> list[float | None]:
    """Numbers as JSON has them, None for NaN and infinity."""
    return [v if math.isfinite(v) else None for v in values.tolist()]


def batch_result(record: dict[str, Any], samples: list[dict[str, Any]]) -> BatchResult:
    """The batch that `batch_json` and `sample_json` wrote.

    Raises ValueError, KeyError, TypeError or AttributeError for anything else.
    """
    return BatchResult(
        samples=tuple(_sample(s, record["seconds"]) for s in samples),
        stages=tuple(StageCount(stage_name(name), *rest) for name, *rest in record["stages"]),
        layers=tuple(LayerMeasure(**{k: _tensor(v) for k, v in layer.items()}) for layer in record["layers"]),
    )


def _sample(line: dict[str, Any], seconds: float) -> Sample:
    assurance, unbounded = line.get("assurance"), line.get("unbounded")
    within = line.get("within")
    line = {k: v for k, v in line.items() if k != "unbounded"}
    typed = {
        "radius": math.inf if unbounded else line["radius"],
        "verdict": Verdict(line["verdict"]),
        "stage": None if line["stage"] is None else stage_name(line["stage"]),
        "assurance": None if assurance is None else Assurance(assurance),
        "within": None if within is None else tuple(within),
    }
    return Sample(**{**line, **typed}, seconds=seconds)


def _tensor(values: list[float | None]) -> torch.Tensor:
    whole = all(isinstance(v, int) for v in values)
    return torch.tensor(
        [float("nan") if v is None else v for v in values], dtype=torch.int64 if whole else torch.float64
    )
