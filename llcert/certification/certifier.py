"""The certifier: a network with its global bounds and the stages that the settings ask for.

Runs call it batch by batch (`llcert.runs.prepare`); docs/method.md, section 14.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import GlobalBound, global_bound
from llcert.bounds.backward.intermediate import Colorings
from llcert.bounds.global_lipschitz.estimate import with_pairs
from llcert.certification.batch import Batch
from llcert.certification.cascade import cascade
from llcert.certification.estimator import Estimator
from llcert.certification.footprint import Footprint
from llcert.certification.memory_budget import MemoryBudget
from llcert.certification.originals import disputed
from llcert.certification.proof.build import Checkable, provers_of
from llcert.certification.proof.proved_stage import ProvedStage
from llcert.certification.proof.prover import Prover
from llcert.certification.radii import radii_of
from llcert.certification.radius_search import HINTS, RadiusSearch
from llcert.certification.result import BatchResult, Contradiction
from llcert.certification.self_check import SelfCheck
from llcert.certification.settings import Settings
from llcert.certification.stages.build import attacking_stages, certifying_stages
from llcert.certification.stages.clean import Clean
from llcert.certification.verdict import Assurance, Stage, Verdict
from llcert.errors import InvalidInput
from llcert.ir import Network
from llcert.numerics.products import full_precision
from llcert.numerics.tensors import channels_last
from llcert.program import Program, lower


@dataclass(frozen=True)
class Certifier:
    """Certifies batches of images for one network and one set of settings.

    exact: the network in float64, for proofs and comparisons. estimator: the bounds that every stage starts from.
    stages: in the order in which they run. search: for the largest radius of each image, None where it is not asked
    for.
    """

    network: Network
    settings: Settings
    exact: Program
    estimator: Estimator
    stages: tuple[Stage, ...]
    search: RadiusSearch | None = None
    memory: MemoryBudget = field(default_factory=lambda: MemoryBudget(torch.device("cpu")))

    @staticmethod
    def of(
        network: Network,
        settings: Settings,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        checkable: Checkable | None = None,
    ) -> Certifier:
        """Lowers the network and computes its global bounds, estimated and, for proofs, proved.

        checkable: the same network, where deterministic proofs are returned with their evidence. Raises InvalidInput
        for fewer than two classes and for a specification that means nothing for them, UnsupportedModel where nothing
        can be proved of an operator.
        """
        if network.classes < 2:
            raise InvalidInput(f"{network.source or 'the network'} has {network.classes} output; a class needs a rival")
        settings.specification.check(network.classes)
        program = lower(network, device, dtype)
        exact = lower(network, device, torch.float64) if checkable is None else checkable.program
        proving = settings.assurance is not Assurance.ESTIMATE
        estimator = Estimator(
            program,
            _global_bound(program, settings),
            settings.solver,
            settings.start,
            settings.within,
            settings.specification,
            Colorings(exact) if proving else None,
        )
        stages, provers = _stages(network, settings, estimator, checkable)
        search = None
        if settings.radius_tolerance is not None:
            # coarser formats lose small weights
            search = RadiusSearch(
                estimator, provers.get(settings.assurance), ~exact.dependent, settings.radius_tolerance
            )
        footprint = Footprint.of(program, proved=proving, evidence=checkable is not None)
        memory = MemoryBudget(program.device, footprint.bytes)
        return Certifier(network, settings, exact, estimator, stages, search, memory)

    @property
    def program(self) -> Program:
        """The network in the format of the estimates."""
        return self.estimator.program

    @property
    def global_bound(self) -> GlobalBound:
        """The estimated global bound."""
        return self.estimator.global_bound

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, *, self_check: bool = False) -> BatchResult:
        """The results of one batch; computed in parts where it does not fit into memory.

        images: `[batch, *input shape]`, pixel units, in a format that holds them exactly: proofs take them as they are,
        estimates round them to the program's format. labels, indices: `[batch]`, int64. self_check: whether the bounds
        of the first images are checked against what the network computes.
        Raises InvalidInput where a single image does not fit into memory, where an image leaves the pixel range that
        the specification is restricted to, and for a label that is no class of the network; Contradiction or
        NumericalError where a bound is seen to be wrong.
        """
        with torch.no_grad(), full_precision():
            batch = self.batch(images, labels, indices)
            result = cascade(
                self.program,
                self.stages,
                batch,
                measure_all=self.settings.stages == ("local",),
                memory=self.memory,
                disputed=self._disputed(batch),
            )
            result = self._with_eps(result, batch)
            if self.search is not None:
                result = self._with_radii(self.search, result, batch)
            if self_check:
                self._check(batch, result)
        return result

    def batch(self, images: Tensor, labels: Tensor, indices: Tensor) -> Batch:
        """The images with radii, reference classes, predictions and seeds. Raises InvalidInput as `__call__` does."""
        program, specification = self.program, self.settings.specification
        images = channels_last(images.to(program.device))
        labels, indices = labels.to(images.device), indices.to(images.device)
        if not bool(((labels >= 0) & (labels < program.classes)).all()):
            raise InvalidInput(
                f"labels run from {int(labels.min())} to {int(labels.max())}, "
                f"but the network has {program.classes} classes (0 to {program.classes - 1})"
            )
        within = self.settings.within
        if within is not None and not bool(within.holds(images).all()):
            outside = int(indices[~within.holds(images)][0])
            raise InvalidInput(f"image {outside} leaves the pixel range {within.words} that --clip-input restricts to")
        logits = torch.cat(self.memory.parts("logits", indices, lambda part: program.logits(images[part])))
        return Batch(
            images,
            labels,
            indices,
            radii_of(self.settings.eps, indices),
            specification.reference(logits, labels, program.classes),
            logits[:, : program.classes].argmax(1),
            self.settings.seed + indices,
        )

    def _disputed(self, batch: Batch) -> Tensor:
        """The images at which the file or module itself answers otherwise; none where nothing is certified."""
        network, specification = self.network, self.settings.specification
        original = network.original
        if original is None or not any(s.verdict is Verdict.CERTIFIED for s in self.stages):
            return torch.zeros_like(batch.labels, dtype=torch.bool)

        def compute(part: Tensor) -> Tensor:
            return disputed(network, original, self.exact, specification, batch.images[part], batch.labels[part])

        return torch.cat(self.memory.parts("comparison", batch.indices, compute))

    def _check(self, batch: Batch, result: BatchResult) -> None:
        check = SelfCheck(seed=self.settings.seed)

        def compute(part: Tensor) -> None:
            some = replace(result, samples=tuple(result.samples[i] for i in part.tolist()))
            check(self.estimator, self.network, batch.select(part), some, deployed=self._deployed)

        self.memory.parts("self-check", batch.indices[: check.images], compute)

    @property
    def _deployed(self) -> bool:
        """Whether certificates hold for every deployed evaluation, not only in real numbers."""
        return self.settings.assurance is not Assurance.ESTIMATE and self.settings.deployed

    def _with_eps(self, result: BatchResult, batch: Batch) -> BatchResult:
        """The result with the radius of every image, and the pixel range that the specification is restricted to."""
        within = None if self.settings.within is None else (self.settings.within.low, self.settings.within.high)
        given = zip(result.samples, batch.radii.tolist(), strict=True)
        return replace(result, samples=tuple(replace(s, eps=eps, within=within) for s, eps in given))

    def _with_radii(self, search: RadiusSearch, result: BatchResult, batch: Batch) -> BatchResult:
        """The result with the radii that the search found: 0 for misclassified and disputed images, at least eps for
        certified ones."""
        begun = time.perf_counter()
        right = [s.verdict is not Verdict.MISCLASSIFIED and not s.disputed for s in result.samples]
        radii = torch.zeros_like(batch.radii)
        if any(right):
            chosen = torch.nonzero(torch.tensor(right, device=radii.device))[:, 0]
            some = batch.select(chosen)
            found = self.memory.parts("radius", some.indices, lambda part: search(some.select(part)))
            radii[chosen] = torch.cat(found)
        samples = []
        share = (time.perf_counter() - begun) / max(len(batch), 1)
        for i, (sample, radius) in enumerate(zip(result.samples, radii.tolist(), strict=True)):
            assert sample.eps is not None
            if sample.verdict is Verdict.ATTACKED and radius > 0 and radius >= sample.eps:
                if self._deployed:
                    raise Contradiction(sample.index, sample.label, batch.images[i], batch.images[i])
                # it may be rounding that breaks it, of which nothing is claimed
                radius = math.nextafter(sample.eps, 0.0)
            if sample.verdict is Verdict.CERTIFIED:
                radius = max(radius, sample.eps)
            samples.append(replace(sample, radius=radius, seconds=sample.seconds + share))
        return replace(result, samples=tuple(samples))


def _stages(
    network: Network, settings: Settings, estimator: Estimator, checkable: Checkable | None
) -> tuple[tuple[Stage, ...], dict[Assurance, Prover]]:
    """The clean prediction and the stages that were asked for, in order, certificates proved; and the provers."""
    certifying, colorings = certifying_stages(settings, estimator), estimator.exact_colorings
    stages: dict[str, Stage] = {**certifying, **attacking_stages(settings, network, estimator.program)}
    provers: dict[Assurance, Prover] = {}
    if colorings is not None:
        hints = [h for s in certifying.values() for h in s.possible_hints] + [
            *(HINTS if settings.radius_tolerance is not None else ())
        ]
        provers = provers_of(network, colorings, settings, hints, None if checkable is None else checkable.slack)
        weaker = {a: p for a, p in provers.items() if a is not settings.assurance}
        for name, stage in certifying.items():
            prover = provers[settings.assurance]
            stages[name] = ProvedStage(stage, prover, settings.assurance, weaker, evidence=checkable is not None)
    clean = Clean(estimator.program, settings.specification)
    return (clean, *(stages[name] for name in settings.running)), provers


def _global_bound(program: Program, settings: Settings) -> GlobalBound:
    """The estimated global bound, with LipLT where a stage or the search for radii uses it."""
    with torch.no_grad(), full_precision():
        bound = global_bound(program, seed=settings.seed)
        pairs = "global" in settings.stages or settings.radius_tolerance is not None
        return with_pairs(bound, program, settings.seed) if pairs else bound
