"""The cascade: every stage sees only the images that the earlier ones left open (docs/method.md, section 14)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import torch
from torch import Tensor

from llcert.certification.batch import Batch, Known, Traces
from llcert.certification.memory_budget import MemoryBudget
from llcert.certification.proof.record import KeptProof
from llcert.certification.verdict import Assurance, Finding, LayerMeasure, Stage, Verdict
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
    """All that a cascade found out about a batch.

    layers: of the local stage's images, empty if none reached it. proofs: of its certificates, where their evidence is
    kept; several stages may have proved an image.
    """

    samples: tuple[Sample, ...]
    stages: tuple[StageCount, ...]
    layers: tuple[LayerMeasure, ...]
    proofs: tuple[KeptProof, ...] = ()


_WRONG = (Verdict.MISCLASSIFIED, Verdict.ATTACKED)


class Contradiction(NumericalError):
    """An image that is both certified and broken. Carries what reproduces it."""

    def __init__(self, index: int, label: int, image: Tensor, counterexample: Tensor) -> None:
        super().__init__(f"image {index} is certified and broken at once: a bug in llcert, not a verdict")
        self.index, self.label, self.image, self.counterexample = index, label, image, counterexample


def cascade(
    program: Program,
    stages: Sequence[Stage],
    batch: Batch,
    *,
    measure_all: bool = False,
    memory: MemoryBudget | None = None,
    disputed: Tensor | None = None,
) -> BatchResult:
    """What the stages decide about one batch. The first stage is the clean prediction.

    measure_all: decided images stay visible to the later stages, for their measures alone; their verdict stands.
    memory: where it runs out, the images that are still open go on in parts, from the stage where it did.
    disputed: images that the first stage alone is shown, boolean `[batch]`: they stay undecided unless it decides.
    Raises Contradiction where two stages disagree, InvalidInput where a single image does not fit into memory.
    """
    begun = time.perf_counter()
    everything = torch.arange(len(batch), device=batch.images.device)
    denied = torch.zeros_like(everything, dtype=torch.bool) if disputed is None else disputed.clone()
    memory = memory or MemoryBudget(batch.images.device)
    run = _Run(batch, stages, memory, measure_all, denied, _Ledger.empty(len(batch)), [_Seen(s.name) for s in stages])
    waiting = [_Part(0, everything, Known.nothing(program, len(batch)))] if stages and len(batch) else []
    while waiting:  # the last first, so that each part goes through all later stages before the next one does
        *others, part = run.split(waiting)
        here, started = batch.select(part.positions), time.perf_counter()
        # what is kept for later stages can be given up
        last_resort = not any(p.known.traces for p in (*others, part))
        compute = partial(stages[part.stage], here, part.known)
        found = memory.tried(stages[part.stage].name, here.indices, compute, last_resort=last_resort)
        run.seen[part.stage].seconds += time.perf_counter() - started
        waiting = others + run.entered(part, found[0]) if found else [p.forgetting() for p in (*others, part)]
        del found, compute  # with the forward passes that went into them
    share = (time.perf_counter() - begun) / max(len(batch), 1)
    layers = next((s.layers for s in run.seen if s.measured), ())
    samples, counts = run.ledger.samples(batch, share, denied), tuple(s.count for s in run.seen)
    return BatchResult(samples, counts, layers, tuple(run.ledger.proofs))


@dataclass(frozen=True)
class _Part:
    """Images of a batch on their way through the stages. stage: the number of the next one. positions: index."""

    stage: int
    positions: Tensor
    known: Known

    def select(self, chosen: Tensor) -> _Part:
        """Some of the images; chosen: index into the positions."""
        return _Part(self.stage, self.positions[chosen], self.known.select(chosen))

    def forgetting(self) -> _Part:
        """Without the forward passes that later stages could have used again."""
        return replace(self, known=replace(self.known, traces=Traces()))


@dataclass(frozen=True)
class _Run:
    """One batch in one cascade. denied: images that only the first stage is shown."""

    batch: Batch
    stages: Sequence[Stage]
    memory: MemoryBudget
    measure_all: bool
    denied: Tensor
    ledger: _Ledger
    seen: list[_Seen]

    def split(self, waiting: list[_Part]) -> list[_Part]:
        """The last of the parts cut where it would not fit into memory, its first piece last."""
        *others, whole = waiting
        every = torch.arange(len(whole.positions), device=whole.positions.device)
        pieces = self.memory.split(self.stages[whole.stage].name, every)
        return others + ([whole] if len(pieces) == 1 else [whole.select(piece) for piece in reversed(pieces)])

    def entered(self, part: _Part, finding: Finding) -> list[_Part]:
        """Notes what a stage has found out about a part; what of it goes on to the next stage."""
        self.ledger.enter(self.stages[part.stage], part.positions, finding, self.batch)
        self.seen[part.stage].enter(finding)
        open_ = torch.ones_like(finding.decided) if self.measure_all else ~finding.decided
        if part.stage == 0:
            self.denied[part.positions[finding.decided]] = False
            open_ = open_ & ~self.denied[part.positions]
        left = torch.nonzero(open_)[:, 0]
        if len(left) == 0 or part.stage + 1 == len(self.stages):
            return []
        known = part.known.improved(finding.bounds, finding.traces)
        return [_Part(part.stage + 1, part.positions, known).select(left)]


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
    """The columns of a batch while its cascade runs."""

    verdicts: list[Verdict]
    deciders: list[str | None]
    in_range: list[bool | None]
    backing: list[Assurance | None]
    margin: Tensor
    lipschitz: Tensor
    growth: Tensor
    proofs: list[KeptProof] = field(default_factory=list)

    @staticmethod
    def empty(batch: int) -> _Ledger:
        unknown = torch.full((3, batch), torch.nan, dtype=torch.float64)
        return _Ledger([Verdict.UNDECIDED] * batch, [None] * batch, [None] * batch, [None] * batch, *unknown)

    def enter(self, stage: Stage, visible: Tensor, finding: Finding, batch: Batch) -> None:
        """Writes a stage's finding; the first verdict stands, one of the other kind raises Contradiction."""
        for position in torch.nonzero(finding.decided)[:, 0].tolist():
            image = int(visible[position])
            before = self.verdicts[image]
            if before is Verdict.UNDECIDED:
                self.verdicts[image], self.deciders[image] = stage.verdict, stage.name
                self.in_range[image] = None if finding.in_range is None else bool(finding.in_range[position])
            elif (before is Verdict.CERTIFIED) != (stage.verdict is Verdict.CERTIFIED):
                own, point = batch.images[image], finding.counterexample
                worst = own if point is None else point[position]
                raise Contradiction(int(batch.indices[image]), int(batch.labels[image]), own, worst)
        if stage.verdict is Verdict.CERTIFIED:
            self._back(visible, finding)
            self.proofs.extend(finding.proofs)
        where = visible.cpu()
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

    def samples(self, batch: Batch, seconds: float, disputed: Tensor) -> tuple[Sample, ...]:
        """One record an image, in order."""
        return tuple(
            Sample(
                index=int(batch.indices[i]),
                label=int(batch.labels[i]),
                prediction=int(batch.predictions[i]),
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
            for i in range(len(batch))
        )


def _number(value: float) -> float | None:
    """A finite number, else None: NaN and infinity never leave the program."""
    return value if math.isfinite(value) else None
