"""The cascade: every stage sees only the images that the earlier ones left undecided (docs/method.md, section 14)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.memory_budget import MemoryBudget
from llcert.certification.proof.evidence import KeptProof
from llcert.certification.result import BatchResult, Contradiction, Sample, StageCount
from llcert.certification.verdict import Assurance, Finding, LayerMeasure, Stage, Verdict
from llcert.program import Program


def cascade(
    program: Program,
    stages: Sequence[Stage],
    batch: Batch,
    *,
    measure_all: bool = False,
    memory: MemoryBudget | None = None,
    disputed: Tensor | None = None,
) -> BatchResult:
    """The results of running the stages on one batch. The first stage is the clean prediction.

    measure_all: decided images stay visible to the later stages, for their measures alone; their verdict stands.
    memory: where it runs out, the images that are still open go on in smaller parts, from the stage where it did.
    disputed: images that only the first stage may decide, boolean `[batch]`; None for none.
    Raises Contradiction where two stages disagree, InvalidInput where a single image does not fit into memory.
    """
    begun, memory = time.perf_counter(), memory or MemoryBudget(batch.images.device)
    everything = torch.arange(len(batch), device=batch.images.device)
    disputed = torch.zeros_like(everything, dtype=torch.bool) if disputed is None else disputed.clone()
    results = _Results(batch, stages)
    waiting = [_Part(0, everything, BoundsSoFar.none(program, len(batch)))] if stages and len(batch) else []
    while waiting:  # the last part first, so that each one passes all later stages before the next one starts
        *waiting, part = waiting[:-1] + _split(waiting[-1], stages, memory)
        stage, images, started = stages[part.stage], batch.select(part.positions), time.perf_counter()
        # forward passes that are kept for later stages can be given up where memory runs out
        last_resort = not any(p.so_far.has_traces for p in (*waiting, part))
        compute = partial(stage, images, part.so_far)
        found = memory.tried(stage.name, images.indices, compute, last_resort=last_resort)
        results.seconds[part.stage] += time.perf_counter() - started
        if found:
            results.enter(part, found[0])
            if part.stage == 0:
                disputed[part.positions[found[0].decided]] = False
            left = ~disputed[part.positions] if measure_all else ~(disputed[part.positions] | found[0].decided)
            waiting += _following(part, found[0], left, len(stages))
        else:
            waiting = [replace(p, so_far=p.so_far.without_traces()) for p in (*waiting, part)]
        del found, compute  # with the forward passes that went into them
    return results.final((time.perf_counter() - begun) / max(len(batch), 1), disputed)


@dataclass(frozen=True)
class _Part:
    """Some images of a batch before their next stage.

    stage: its number. positions: of the images, an index. so_far: what earlier stages found out about them.
    """

    stage: int
    positions: Tensor
    so_far: BoundsSoFar


def _split(part: _Part, stages: Sequence[Stage], memory: MemoryBudget) -> list[_Part]:
    """The part in pieces that should fit into memory, the first piece last."""
    every = torch.arange(len(part.positions), device=part.positions.device)
    pieces = memory.split(stages[part.stage].name, every)
    if len(pieces) == 1:
        return [part]
    return [_Part(part.stage, part.positions[some], part.so_far.select(some)) for some in reversed(pieces)]


def _following(part: _Part, finding: Finding, left: Tensor, stages: int) -> list[_Part]:
    """The images that go on to the next stage, where there is one. left: which, boolean `[images]`."""
    some = torch.nonzero(left)[:, 0]
    if len(some) == 0 or part.stage + 1 == stages:
        return []
    so_far = part.so_far if finding.so_far is None else finding.so_far
    return [_Part(part.stage + 1, part.positions[some], so_far.select(some))]


class _Results:
    """The results of a batch while its cascade runs: samples, counts and measures are updated part by part."""

    def __init__(self, batch: Batch, stages: Sequence[Stage]) -> None:
        self.batch, self.stages = batch, stages
        columns = (batch.indices.tolist(), batch.labels.tolist(), batch.predictions.tolist())
        self.samples = [Sample(*row) for row in zip(*columns, strict=True)]
        self.seen, self.decided, self.seconds = [0] * len(stages), [0] * len(stages), [0.0] * len(stages)
        self.layers: list[tuple[LayerMeasure, ...]] = []
        self.proofs: list[KeptProof] = []

    def enter(self, part: _Part, finding: Finding) -> None:
        """Enters what a stage found out. The first verdict on an image stands; raises Contradiction for another."""
        stage, decided = self.stages[part.stage], finding.decided.tolist()
        self.seen[part.stage] += len(decided)
        self.decided[part.stage] += sum(decided)
        self.proofs.extend(finding.proofs)
        if finding.layers:
            self.layers.append(finding.layers)
        backed = {**finding.weaker, finding.assurance: finding.decided} if stage.verdict is Verdict.CERTIFIED else {}
        assurances = [(assurance, images.tolist()) for assurance, images in backed.items()]
        fields = {
            "margin": finding.margin,
            "local_lipschitz": finding.lipschitz,
            "radius_growth": finding.radius_growth,
        }
        measures = {name: values.tolist() for name, values in fields.items() if values is not None}
        for i, position in enumerate(part.positions.tolist()):
            sample = self._with_verdict(position, stage, finding, i) if decided[i] else self.samples[position]
            found: dict[str, Any] = {name: _finite(values[i]) for name, values in measures.items()}
            if "margin" in found:
                found["margin"] = max((m for m in (sample.margin, found["margin"]) if m is not None), default=None)
            backing = [assurance for assurance, images in assurances if images[i]] + [sample.assurance]
            found["assurance"] = max(filter(None, backing), key=list(Assurance).index, default=None)
            self.samples[position] = replace(sample, **found)

    def _with_verdict(self, position: int, stage: Stage, finding: Finding, i: int) -> Sample:
        """The sample of an image that a stage decided. Raises Contradiction where an earlier one decided otherwise.

        position: of the image in the batch; i: in the finding.
        """
        sample = self.samples[position]
        if sample.verdict is Verdict.UNDECIDED:
            in_range = None if finding.in_range is None else bool(finding.in_range[i])
            return replace(sample, verdict=stage.verdict, stage=stage.name, in_range=in_range)
        if (sample.verdict is Verdict.CERTIFIED) != (stage.verdict is Verdict.CERTIFIED):
            image = self.batch.images[position]
            worst = image if finding.counterexample is None else finding.counterexample[i]
            raise Contradiction(sample.index, sample.label, image, worst)
        return sample

    def final(self, seconds: float, disputed: Tensor) -> BatchResult:
        """The results at the end. seconds: of each image. disputed: images without a verdict for that, `[batch]`."""
        samples = tuple(
            replace(
                s,
                seconds=seconds,
                assurance=None if s.verdict in (Verdict.MISCLASSIFIED, Verdict.ATTACKED) else s.assurance,
                disputed=denied,
            )
            for s, denied in zip(self.samples, disputed.tolist(), strict=True)
        )
        names = [s.name for s in self.stages]
        counts = tuple(StageCount(*c) for c in zip(names, self.seen, self.decided, self.seconds, strict=True))
        layers = tuple(_joined(parts) for parts in zip(*self.layers, strict=True))
        return BatchResult(samples, counts, layers, tuple(self.proofs))


def _joined(parts: Sequence[LayerMeasure]) -> LayerMeasure:
    """The measures of one term over all parts."""
    return LayerMeasure(*(torch.cat([getattr(m, f.name) for m in parts]) for f in fields(LayerMeasure)))


def _finite(value: float) -> float | None:
    """A finite number, else None: NaN and infinity never leave the program."""
    return value if math.isfinite(value) else None
