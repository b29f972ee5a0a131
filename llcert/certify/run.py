"""A certification ready to run: a program, its global bound, and the stages a user asked for."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from llcert.bounds import GlobalBound, Start, global_bound
from llcert.bounds.branching import Branching
from llcert.bounds.lipschitz import with_pairs
from llcert.certify.arithmetic import full_precision
from llcert.certify.attack import PGD, Deployed, Objective, Target
from llcert.certify.attack_stages import Adversary, Attack, TargetedAttack
from llcert.certify.branch import Branch
from llcert.certify.cascade import BatchResult, Contradiction, cascade
from llcert.certify.claim import FIRST, Claim
from llcert.certify.dual import Dual
from llcert.certify.explained import Witness
from llcert.certify.footprint import Footprint
from llcert.certify.originals import Originals
from llcert.certify.proved import Proved
from llcert.certify.prover import Prover, Semantics, provers_of
from llcert.certify.radii import Eps, Radii, radii_of
from llcert.certify.radius import RadiusSearch
from llcert.certify.room import Room
from llcert.certify.self_check import SelfCheck
from llcert.certify.stages import Clean, Global, Local
from llcert.certify.targeted import Targeted
from llcert.certify.verdict import Assurance, Stage, Verdict
from llcert.errors import InvalidInput
from llcert.ir import Network, evaluate_as_run
from llcert.program import Program, lower
from llcert.region import UNIT, PixelRange, channels_last
from llcert.spectral import Lanczos, PowerIteration


class AttackKind(enum.Enum):
    """Which attack the stage `attack` stands for."""

    TARGETED = "targeted"  # PGD on the margin, and after the bounds every open rival by itself
    PAPER = "paper"  # PGD on the cross-entropy in the pixel range, for comparison with published figures


@dataclass(frozen=True)
class Settings:
    """What is asked of a certification.

    eps: L2 radius in pixel units, finite and >= 0, of all images or of each. stages: names, in any order: they run by
    what a decision costs, clean always first. assurance: what backs a certificate. semantics: of the network a proof
    speaks of. delta: of a probabilistic proof, the probability that the certificate of one image is wrong.
    proof_seconds: nominal budget of an image's deterministic norms. branch_seconds: of the branch stage, wall clock an
    image. radius: relative tolerance of a search for each image's largest certified radius, None for no search.
    clip_input: claim only of the points of a ball that lie in the pixel range. pixel_range: what a pixel may be.
    attack: of which kind; pgd, targeted: its parts.
    solver, start: of estimated norms. seed: of attacks and starting vectors. claim: of every point of a ball.
    """

    eps: Eps
    stages: tuple[str, ...] = ("global", "local", "attack", "dual", "boxes")
    assurance: Assurance = Assurance.DETERMINISTIC
    semantics: Semantics = Semantics.FLOAT32
    delta: float = 1e-9
    proof_seconds: float = 10.0
    branch_seconds: float = 10.0
    radius: float | None = None
    clip_input: bool = False
    pixel_range: PixelRange = UNIT
    seed: int = 0
    attack: AttackKind = AttackKind.TARGETED
    pgd: PGD = field(default_factory=PGD)
    targeted: Targeted = field(default_factory=Targeted)
    solver: Lanczos | PowerIteration = field(default_factory=Lanczos)
    start: Start = Start.UNMASKED
    claim: Claim = FIRST

    def __post_init__(self) -> None:
        if not isinstance(self.eps, Radii) and not 0 <= self.eps < float("inf"):
            raise InvalidInput(f"eps must be a finite number >= 0 in pixel units, not {self.eps}")
        if self.radius is not None and not 1e-6 <= self.radius < 1:
            raise InvalidInput(f"the tolerance of a radius must lie between 1e-6 and 1, not {self.radius}")
        if not 0 < self.delta < 1:
            raise InvalidInput(f"delta must be a probability between 0 and 1, not {self.delta}")
        for name, seconds in (("proof", self.proof_seconds), ("branch", self.branch_seconds)):
            if not 0 < seconds < float("inf"):
                raise InvalidInput(f"{name} seconds must be a finite number > 0, not {seconds}")
        if self.start is Start.SAVED and isinstance(self.solver, Lanczos) and not self.solver.vectors:
            raise InvalidInput("start saved: lanczos finds no singular vectors to lend; use the power iteration")
        unknown = [s for s in self.stages if s not in STAGES]
        if unknown or not self.stages or len(set(self.stages)) < len(self.stages):
            asked = ",".join(self.stages)
            raise InvalidInput(f"stages {asked[:40]!r}: give a list of {', '.join(STAGES)} without repeats")
        object.__setattr__(self, "stages", tuple(s for s in STAGES if s in self.stages))

    @property
    def running(self) -> tuple[str, ...]:
        """The stages that run after the clean prediction, in order: the attack may be two."""
        both = "attack" in self.stages and self.attack is AttackKind.TARGETED
        return tuple(s for s in _ORDER if s in self.stages or (both and s == "targeted"))

    @property
    def within(self) -> PixelRange | None:
        """The range of pixels that claims are restricted to; None where they are about whole balls."""
        return self.pixel_range if self.clip_input else None


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
    room: Room = field(default_factory=lambda: Room(torch.device("cpu")))

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
        settings.claim.check(network.classes)
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
            claim=settings.claim,
            other=provers[settings.assurance].asked if provers else None,
        )
        stages = _stages(program, settings, bound, local, provers, witness, _deployed(network))
        search = None
        if settings.radius is not None:
            fixed = ~lower(network, device, torch.float64).dependent  # coarser formats lose small weights
            search = RadiusSearch(local, provers.get(settings.assurance), fixed, settings.radius)
        room = Room(program.device, Footprint.of(program, proved=bool(provers)).bytes, local.forget)
        originals = None
        if network.original is not None and any(s.verdict is Verdict.CERTIFIED for s in stages):
            originals = Originals(network, network.original, settings.claim, device)
        return Certifier(network, program, settings, bound, stages, local, originals, search, room)

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
                claim=self.settings.claim,
                measure_all=self.settings.stages == ("local",),
                room=self.room,
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
        parts = self.room.parts("comparison", indices, lambda part: originals.disputed(images[part], labels[part]))
        return torch.cat(parts)

    def _check(self, images: Tensor, labels: Tensor, indices: Tensor, result: BatchResult) -> None:
        check = SelfCheck()

        def compute(part: Tensor) -> None:
            some = replace(result, samples=tuple(result.samples[i] for i in part.tolist()))
            check(self.local, self.network, images[part], labels[part], indices[part], some, deployed=self._deployed)

        self.room.parts("self-check", indices[: check.images], compute)

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
            found = self.room.parts("radius", indices[chosen], lambda part: search(*(t[chosen[part]] for t in given)))
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
    target = Target(program, deployed, settings.claim)
    adversary = Adversary(target, settings.eps, settings.pixel_range, settings.clip_input, settings.seed)
    stages = [_ORDER[name](settings, bound, local, adversary) for name in settings.running]
    weaker = {a: p for a, p in provers.items() if a is not settings.assurance}
    proved = [
        Proved(s, provers[settings.assurance], settings.assurance, weaker, witness)
        if provers and s.verdict is Verdict.CERTIFIED
        else s
        for s in stages
    ]
    return (Clean(program, settings.claim), *proved)


def _deployed(network: Network) -> Deployed:
    """What the file or the module itself answers; the network in its own formats where it was made here."""
    return partial(evaluate_as_run, network.output) if network.original is None else network.original.logits


def _pgd(settings: Settings) -> PGD:
    """The attack before the costly bounds."""
    margin = settings.attack is AttackKind.TARGETED
    return replace(settings.pgd, objective=Objective.MARGIN if margin else Objective.CROSS_ENTROPY)


_ORDER: dict[str, Callable[[Settings, GlobalBound, Local, Adversary], Stage]] = {
    "global": lambda settings, bound, local, _: Global(local.program, settings.eps, bound, settings.claim),
    "local": lambda settings, bound, local, _: local,
    "attack": lambda settings, bound, local, adversary: Attack(adversary, _pgd(settings)),
    "dual": lambda settings, bound, local, _: Dual(local),
    "boxes": lambda settings, bound, local, _: Dual(local, boxes=True, name="boxes"),
    "targeted": lambda settings, bound, local, adversary: TargetedAttack(adversary, settings.targeted),
    "branch": lambda settings, bound, local, _: Branch(local, Branching(seconds=settings.branch_seconds)),
}
"""The stages by what a decision costs. One that branches may do so as long as it pleases, so it sees the fewest."""

STAGES = tuple(name for name in _ORDER if name != "targeted")
"""The names of stages that may be asked for."""
