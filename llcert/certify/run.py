"""A certification ready to run: a program, its global bound, and the stages a user asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from llcert.bounds import GlobalBound, global_bound
from llcert.bounds.branching import Branching
from llcert.bounds.lipschitz import with_pairs
from llcert.certify.arithmetic import full_precision
from llcert.certify.attack import PGD, Deployed, Objective, Target
from llcert.certify.attack_stages import Adversary, Attack, TargetedAttack
from llcert.certify.branch import Branch
from llcert.certify.cascade import BatchResult, Contradiction, cascade
from llcert.certify.dual import Dual
from llcert.certify.explained import Witness
from llcert.certify.footprint import Footprint
from llcert.certify.memory_budget import MemoryBudget
from llcert.certify.originals import Originals
from llcert.certify.proved import Proved
from llcert.certify.prover import Prover, provers_of
from llcert.certify.radii import radii_of
from llcert.certify.radius import RadiusSearch
from llcert.certify.self_check import SelfCheck
from llcert.certify.settings import AttackKind, Semantics, Settings
from llcert.certify.stages import Clean, Global, Local
from llcert.certify.verdict import Assurance, Stage, Verdict
from llcert.errors import InvalidInput
from llcert.ir import Network, evaluate_as_run
from llcert.program import Program, lower
from llcert.region import channels_last


@dataclass(frozen=True)
class Certifier:
    """Certifies batches of images for one network and one set of settings. program: the network, lowered."""

    network: Network
    program: Program
    settings: Settings
    bound: GlobalBound
    stages: tuple[Stage, ...]
    local: Local
    originals: Originals | None = None
    search: RadiusSearch | None = None
    memory: MemoryBudget = field(default_factory=lambda: MemoryBudget(torch.device("cpu")))

    @staticmethod
    def of(
        network: Network,
        settings: Settings,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        witness: Witness | None = None,
    ) -> Certifier:
        """Lowers the network and computes its global bound. Raises InvalidInput for fewer than two classes, and for a
        claim that means nothing for them.

        witness: of deterministic proofs.
        """
        if network.classes < 2:
            raise InvalidInput(f"{network.source or 'the network'} has {network.classes} output; a class needs a rival")
        settings.specification.check(network.classes)
        program = lower(network, device, dtype)
        with torch.no_grad(), full_precision():
            bound = global_bound(program, seed=settings.seed)
            if "global" in settings.stages or settings.radius is not None:
                bound = with_pairs(bound, program, settings.seed)
        provers: dict[Assurance, Prover] = {}
        if settings.assurance is not Assurance.ESTIMATE:
            provers = provers_of(network, settings, device, witness)
        local = Local(
            program,
            settings.eps,
            bound,
            solver=settings.solver,
            start=settings.start,
            within=settings.within,
            seed=settings.seed,
            specification=settings.specification,
            other=provers[settings.assurance].asked if provers else None,
        )
        stages = _stages(program, settings, bound, local, provers, witness, _deployed(network))
        search = None
        if settings.radius is not None:
            fixed = ~lower(network, device, torch.float64).dependent  # coarser formats lose small weights
            search = RadiusSearch(local, provers.get(settings.assurance), fixed, settings.radius)
        memory = MemoryBudget(program.device, Footprint.of(program, proved=bool(provers)).bytes, local.forget)
        originals = None
        if network.original is not None and any(s.verdict is Verdict.CERTIFIED for s in stages):
            originals = Originals(network, network.original, settings.specification, device)
        return Certifier(network, program, settings, bound, stages, local, originals, search, memory)

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, *, self_check: bool = False) -> BatchResult:
        """The verdicts on one batch, if asked with the self-check; in parts where the whole does not fit into memory.

        images: `[batch, *input shape]`, pixel units, in a precision that holds them exactly: proofs take them as they
        are, estimates round them to the program's format. labels, indices: `[batch]`, int64.
        Raises InvalidInput where a single image does not fit, one leaves the range of pixels that claims are restricted
        to, or a label is none of the network's, Contradiction or NumericalError where a bound is seen to be wrong.
        """
        images = channels_last(images.to(self.program.device))
        labels, indices = labels.to(images.device), indices.to(images.device)
        if not bool(((labels >= 0) & (labels < self.program.classes)).all()):
            raise InvalidInput(
                f"labels run from {int(labels.min())} to {int(labels.max())}, "
                f"but the network has {self.program.classes} classes (0 to {self.program.classes - 1})"
            )
        within = self.settings.within
        if within is not None and not bool(within.holds(images).all()):
            outside = int(indices[~within.holds(images)][0])
            raise InvalidInput(f"image {outside} leaves the pixel range {within.words} that --clip-input restricts to")
        with torch.no_grad(), full_precision():
            result = cascade(
                self.program,
                self.stages,
                images,
                labels,
                indices,
                specification=self.settings.specification,
                measure_all=self.settings.stages == ("local",),
                memory=self.memory,
                disputed=self._disputed(images, labels, indices),
            )
            result = self._with_eps(result, indices)
            if self.search is not None:
                result = self._with_radii(self.search, result, images, labels, indices)
            if self_check:
                self._check(images, labels, indices, result)
        return result

    def _disputed(self, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The images at which the network's original answers otherwise; none where it has no original."""
        originals = self.originals
        if originals is None:
            return torch.zeros(len(images), dtype=torch.bool, device=images.device)
        parts = self.memory.parts("comparison", indices, lambda part: originals.disputed(images[part], labels[part]))
        return torch.cat(parts)

    def _check(self, images: Tensor, labels: Tensor, indices: Tensor, result: BatchResult) -> None:
        check = SelfCheck()

        def compute(part: Tensor) -> None:
            some = replace(result, samples=tuple(result.samples[i] for i in part.tolist()))
            check(self.local, self.network, images[part], labels[part], indices[part], some, deployed=self._deployed)

        self.memory.parts("self-check", indices[: check.images], compute)

    @property
    def _deployed(self) -> bool:
        """Whether certificates speak of the network as it is run."""
        return self.settings.assurance is not Assurance.ESTIMATE and self.settings.semantics is Semantics.FLOAT32

    def _with_eps(self, result: BatchResult, indices: Tensor) -> BatchResult:
        """The result with the set of points that was asked about of every image."""
        asked = radii_of(self.settings.eps, indices).tolist()
        within = None if self.settings.within is None else (self.settings.within.low, self.settings.within.high)
        samples = tuple(replace(s, eps=eps, within=within) for s, eps in zip(result.samples, asked, strict=True))
        return replace(result, samples=samples)

    def _with_radii(
        self, search: RadiusSearch, result: BatchResult, images: Tensor, labels: Tensor, indices: Tensor
    ) -> BatchResult:
        """The result with every image's radius: 0 where misclassified or disputed, at least eps where certified."""
        begun = time.perf_counter()
        right = [s.verdict is not Verdict.MISCLASSIFIED and not s.disputed for s in result.samples]
        radii = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        given = images, labels, indices
        if any(right):
            chosen = torch.nonzero(torch.tensor(right, device=images.device))[:, 0]
            found = self.memory.parts("radius", indices[chosen], lambda part: search(*(t[chosen[part]] for t in given)))
            radii[chosen] = torch.cat(found)
        samples = []
        share = (time.perf_counter() - begun) / max(len(images), 1)
        for i, (sample, radius) in enumerate(zip(result.samples, radii.tolist(), strict=True)):
            assert sample.eps is not None
            if sample.verdict is Verdict.ATTACKED and radius > 0 and radius >= sample.eps:
                if self._deployed:
                    raise Contradiction(sample.index, sample.label, images[i], images[i])
                # it may be rounding that breaks it, of which nothing is claimed
                radius = math.nextafter(sample.eps, 0.0)
            if sample.verdict is Verdict.CERTIFIED:
                radius = max(radius, sample.eps)
            samples.append(replace(sample, radius=radius, seconds=sample.seconds + share))
        return replace(result, samples=tuple(samples))


def _stages(
    program: Program,
    settings: Settings,
    bound: GlobalBound,
    local: Local,
    provers: Mapping[Assurance, Prover],
    witness: Witness | None,
    deployed: Deployed,
) -> tuple[Stage, ...]:
    target = Target(program, deployed, settings.specification)
    adversary = Adversary(target, settings.eps, settings.pixel_range, settings.clip_input, settings.seed)
    stages = [_BUILD[name](settings, bound, local, adversary) for name in settings.running]
    weaker = {a: p for a, p in provers.items() if a is not settings.assurance}
    proved = [
        Proved(s, provers[settings.assurance], settings.assurance, weaker, witness)
        if provers and s.verdict is Verdict.CERTIFIED
        else s
        for s in stages
    ]
    return (Clean(program, settings.specification), *proved)


def _deployed(network: Network) -> Deployed:
    """What the file or the module itself answers; the network in its own formats where it was made here."""
    return partial(evaluate_as_run, network.output) if network.original is None else network.original.logits


def _pgd(settings: Settings) -> PGD:
    """The attack before the costly bounds."""
    margin = settings.attack is AttackKind.TARGETED
    return replace(settings.pgd, objective=Objective.MARGIN if margin else Objective.CROSS_ENTROPY)


_BUILD: dict[str, Callable[[Settings, GlobalBound, Local, Adversary], Stage]] = {
    "global": lambda settings, bound, local, _: Global(local.program, settings.eps, bound, settings.specification),
    "local": lambda settings, bound, local, _: local,
    "attack": lambda settings, bound, local, adversary: Attack(adversary, _pgd(settings)),
    "dual": lambda settings, bound, local, _: Dual(local),
    "boxes": lambda settings, bound, local, _: Dual(local, boxes=True, name="boxes"),
    "targeted": lambda settings, bound, local, adversary: TargetedAttack(adversary, settings.targeted),
    "branch": lambda settings, bound, local, _: Branch(local, Branching(seconds=settings.branch_seconds)),
}
"""How each stage is built."""
