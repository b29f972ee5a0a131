"""The cascade: every stage sees only the images that the earlier ones left open (METHOD, section 6)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial

import torch
from torch import Tensor

from llcert.certify.memory_budget import MemoryBudget
from llcert.certify.specification import FIRST, Specification
from llcert.certify.verdict import Assurance, Finding, LayerMeasure, Stage, Verdict
from llcert.errors import NumericalError
from llcert.program import Program


@dataclass(frozen=True)
class StageCount:
    """What one stage did with one batch. seconds: wall clock."""

    name: str
    seen: int
    decided: int
    seconds: float


@dataclass(frozen=True)
class Sample:
    """What is known of one image; None for what was not computed.

    stage: the name of the stage that decided; None if none did. margin: best lower bound on the worst-case margin.
    in_range: whether the point that refuted the claim lies in the pixel range; None where no attack decided.
    local_lipschitz: eq. 6. radius_growth: radius of the last hidden values over eps. seconds: its share of the batch.
    assurance: the strongest under which it would be certified; the asked one where it is, None where none is known.
    radius: the largest radius at which it is certified, as far as a search found, in pixel units; infinite where it is
    at every one; None if not searched.
    eps: the radius that was asked, in pixel units; None where that was not noted. within: the range of pixels that the
    claim is restricted to; None where it is about the whole ball.
    disputed: whether nothing may be certified of it because the file or module itself answers otherwise there.
    """

    index: int
    label: int
    prediction: int
    verdict: Verdict
    stage: str | None
    margin: float | None
    local_lipschitz: float | None
    radius_growth: float | None
    seconds: float
    assurance: Assurance | None = None
    radius: float | None = None
    eps: float | None = None
    in_range: bool | None = None
    disputed: bool = False
    within: tuple[float, float] | None = None


@dataclass(frozen=True)
class BatchResult:
    """All that a cascade found out about a batch. layers: of the local stage's images, empty if none reached it."""

    samples: tuple[Sample, ...]
    stages: tuple[StageCount, ...]
    layers: tuple[LayerMeasure, ...]


_WRONG = (Verdict.MISCLASSIFIED, Verdict.ATTACKED)


class Contradiction(NumericalError):
    """An image that is both certified and broken. Carries what reproduces it."""

    def __init__(self, index: int, label: int, image: Tensor, witness: Tensor) -> None:
        super().__init__(f"image {index} is certified and broken at once: a bug in llcert, not a verdict")
        self.index, self.label, self.image, self.witness = index, label, image, witness


def cascade(  # noqa: PLR0913
    program: Program,
    stages: Sequence[Stage],
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
    *,
    specification: Specification = FIRST,
    measure_all: bool = False,
    memory: MemoryBudget | None = None,
    disputed: Tensor | None = None,
) -> BatchResult:
    """What the stages decide about one batch. The first stage is the clean prediction.

    images: `[batch, *input shape]`; labels, indices: `[batch]`. specification: whose references the stages are told.
    measure_all: decided images stay visible to the later stages, for their measures alone; their verdict stands.
    memory: where memory runs out, the images that are still open go on in parts, from the stage where it did.
    disputed: images that the first stage alone is shown, boolean `[batch]`: they stay undecided unless it decides.
    Raises Contradiction where two stages disagree, InvalidInput where a single image does not fit into memory.
    """
    begun = time.perf_counter()
    memory = memory or MemoryBudget(images.device)
    logits = torch.cat(memory.parts("logits", indices, lambda part: program.logits(images[part])))
    prediction, references = (
        logits[:, : program.classes].argmax(1),
        specification.reference(logits, labels, program.classes),
    )
    ledger, seen = _Ledger.empty(*logits.shape), [_Seen(stage.name) for stage in stages]
    everything = torch.arange(len(images), device=images.device)
    denied = torch.zeros_like(everything, dtype=torch.bool) if disputed is None else disputed.clone()
    waiting = [(0, everything)] if stages and len(images) else []
    while waiting:  # the last first, so that each part goes through all later stages before the next one does
        number, visible = waiting.pop()
        stage = stages[number]
        here, *rest = memory.split(stage.name, visible)
        waiting += [(number, part) for part in reversed(rest)]
        started = time.perf_counter()
        known = ledger.bounds[here.cpu()].to(images.device)
        compute = partial(stage, images[here], references[here], indices[here], known)
        found = memory.tried(stage.name, indices[here], compute)
        for finding in found:
            ledger.enter(stage, here, finding, images, labels, indices)
            seen[number].enter(finding)
        seen[number].seconds += time.perf_counter() - started
        left = here[~found[0].decided] if found and not measure_all else here
        if found and number == 0:
            denied[here[found[0].decided]] = False
            left = left[~denied[left]]
        after = number + 1 if found else number
        if len(left) and after < len(stages):
            waiting.append((after, left))
    share = (time.perf_counter() - begun) / max(len(images), 1)
    samples = ledger.samples(indices, labels, prediction, share, denied)
    return BatchResult(samples, tuple(s.count for s in seen), next((s.layers for s in seen if s.measured), ()))


@dataclass
class _Seen:
    """What one stage has seen of a batch, part by part. measured: the layers of each part."""

    name: str
    images: int = 0
    decided: int = 0
    seconds: float = 0.0
    measured: list[tuple[LayerMeasure, ...]] = field(default_factory=list)

    def enter(self, finding: Finding) -> None:
        """Counts one part."""
        self.images += len(finding.decided)
        self.decided += int(finding.decided.sum())
        if finding.layers:
            self.measured.append(finding.layers)

    @property
    def count(self) -> StageCount:
        return StageCount(self.name, self.images, self.decided, self.seconds)

    @property
    def layers(self) -> tuple[LayerMeasure, ...]:
        """The measures of all parts."""
        return tuple(
            LayerMeasure(*(torch.cat([getattr(m, f.name) for m in layer]) for f in fields(LayerMeasure)))
            for layer in zip(*self.measured, strict=True)
        )


@dataclass(frozen=True)
class _Ledger:
    """The columns of a batch while its cascade runs. bounds: `[batch, logits]`."""

    verdicts: list[Verdict]
    deciders: list[str | None]
    in_range: list[bool | None]
    backing: list[Assurance | None]
    bounds: Tensor
    margin: Tensor
    lipschitz: Tensor
    growth: Tensor

    @staticmethod
    def empty(batch: int, logits: int) -> _Ledger:
        unknown = torch.full((3, batch), torch.nan, dtype=torch.float64)
        nothing = torch.full((batch, logits), -torch.inf, dtype=torch.float64)
        return _Ledger([Verdict.UNDECIDED] * batch, [None] * batch, [None] * batch, [None] * batch, nothing, *unknown)

    def enter(
        self, stage: Stage, visible: Tensor, finding: Finding, images: Tensor, labels: Tensor, indices: Tensor
    ) -> None:
        """Writes a stage's finding; the first verdict stands, one of the other kind raises Contradiction."""
        for position in torch.nonzero(finding.decided)[:, 0].tolist():
            image = int(visible[position])
            before = self.verdicts[image]
            if before is Verdict.UNDECIDED:
                self.verdicts[image], self.deciders[image] = stage.verdict, stage.name
                self.in_range[image] = None if finding.in_range is None else bool(finding.in_range[position])
            elif (before is Verdict.CERTIFIED) != (stage.verdict is Verdict.CERTIFIED):
                witness = images[image] if finding.counterexample is None else finding.counterexample[position]
                raise Contradiction(int(indices[image]), int(labels[image]), images[image], witness)
        if stage.verdict is Verdict.CERTIFIED:
            self._back(visible, finding)
        where = visible.cpu()
        if finding.bounds is not None:
            self.bounds[where] = torch.fmax(self.bounds[where], finding.bounds.double().cpu())
        if finding.margin is not None:
            self.margin[where] = torch.fmax(self.margin[where], finding.margin.double().cpu())
        if finding.lipschitz is not None:
            self.lipschitz[where] = finding.lipschitz.double().cpu()
        if finding.growth is not None:
            self.growth[where] = finding.growth.double().cpu()

    def _back(self, visible: Tensor, finding: Finding) -> None:
        """Notes the strongest assurance of each image."""
        for assurance in Assurance:  # weakest first
            backed = finding.decided if assurance is finding.assurance else finding.weaker.get(assurance)
            for image in visible[backed].tolist() if backed is not None else ():
                known = self.backing[image]
                self.backing[image] = assurance if known is None or assurance.stronger(known) else known

    def samples(
        self, indices: Tensor, labels: Tensor, prediction: Tensor, seconds: float, disputed: Tensor
    ) -> tuple[Sample, ...]:
        """One record an image, in order."""
        return tuple(
            Sample(
                index=int(indices[i]),
                label=int(labels[i]),
                prediction=int(prediction[i]),
                verdict=self.verdicts[i],
                stage=self.deciders[i],
                margin=_number(float(self.margin[i])),
                local_lipschitz=_number(float(self.lipschitz[i])),
                radius_growth=_number(float(self.growth[i])),
                seconds=seconds,
                assurance=None if self.verdicts[i] in _WRONG else self.backing[i],
                in_range=self.in_range[i],
                disputed=bool(disputed[i]),
            )
            for i in range(len(indices))
        )


def _number(value: float) -> float | None:
    """A finite number, else None: NaN and infinity never leave the program."""
    return value if math.isfinite(value) else None
