"""The settings of a certification: its options, resolved and checked, as the stages, the prover and the certifier read
them. Defaults and ranges are those that `llcert.options` declares."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from llcert.bounds import Start
from llcert.certification.pgd import PGD, TargetedPGD
from llcert.certification.radii import Eps, Radii
from llcert.certification.specification import FIRST, Specification
from llcert.certification.verdict import Assurance
from llcert.domain.pixel_range import UNIT, PixelRange
from llcert.errors import InvalidInput
from llcert.options import RUNNING, STAGES, check, default, stage_name
from llcert.spectral import Lanczos, PowerIteration


class Semantics(enum.Enum):
    """Which function a proof speaks of."""

    DEPLOYED = "float32"  # the network in real numbers, and every deployed evaluation: as it is run, sums in any order
    REAL = "real"  # the network in real numbers alone


class AttackKind(enum.Enum):
    """Which attack the stage `attack` stands for."""

    TWO_STAGE = "targeted"  # PGD on the margin, and after the bounds the stage `targeted`: every open rival by itself
    PAPER = "paper"  # PGD along the cross-entropy's gradient in the pixel range, as published figures have it


@dataclass(frozen=True)
class Settings:
    """The settings of a certification.

    eps: L2 radius in pixel units, finite and >= 0, of all images or of each. stages: names, in any order; they run in
    the order of `llcert.options.RUNNING`, the clean prediction always first. assurance: what backs a certificate.
    semantics: which function a proof speaks of. delta: of a probabilistic proof, the probability that the certificate
    of one image is wrong. proof_seconds: nominal budget of an image's deterministic norms. branch_seconds: wall clock
    of an image in the stage branch. radius_tolerance: relative, of the search for each image's largest certified
    radius, None for no search. clip_input: whether specifications are about the points of a ball in the pixel range
    alone. pixel_range: the values a pixel may have. attack: of which kind; pgd, targeted_pgd: the parameters of its two
    stages. solver, start: of estimated norms. seed: of attacks and starting vectors. specification: what is certified
    of every point of a ball.
    """

    eps: Eps
    stages: tuple[str, ...] = default("stages")
    assurance: Assurance = Assurance(default("assurance"))
    semantics: Semantics = Semantics(default("semantics"))
    delta: float = default("delta")
    proof_seconds: float = default("proof_seconds")
    branch_seconds: float = default("branch_seconds")
    radius_tolerance: float | None = None
    clip_input: bool = default("clip_input")
    pixel_range: PixelRange = UNIT
    seed: int = default("seed")
    attack: AttackKind = AttackKind(default("attack"))
    pgd: PGD = field(default_factory=PGD)
    targeted_pgd: TargetedPGD = field(default_factory=TargetedPGD)
    solver: Lanczos | PowerIteration = field(default_factory=Lanczos)
    start: Start = Start(default("start"))
    specification: Specification = FIRST

    def __post_init__(self) -> None:
        if not isinstance(self.eps, Radii) and not 0 <= self.eps < float("inf"):
            raise InvalidInput(f"eps must be a finite number >= 0 in pixel units, not {self.eps}")
        for name in ("delta", "proof_seconds", "branch_seconds", "seed"):
            check(name, getattr(self, name))
        if self.radius_tolerance is not None:
            check("radius_tolerance", self.radius_tolerance)
        if self.start is Start.SAVED and isinstance(self.solver, Lanczos) and not self.solver.vectors:
            raise InvalidInput("start saved: lanczos finds no singular vectors to lend; use the power iteration")
        asked = [stage_name(s) for s in self.stages]
        if not asked or set(asked) - set(STAGES) or len(set(asked)) < len(asked):
            text = ",".join(self.stages)[:40]
            raise InvalidInput(f"stages {text!r}: give a list of {', '.join(STAGES)} without repeats")
        object.__setattr__(self, "stages", tuple(s for s in STAGES if s in asked))

    @property
    def running(self) -> tuple[str, ...]:
        """The stages that run after the clean prediction, in order: the attack may be two."""
        both = "attack" in self.stages and self.attack is AttackKind.TWO_STAGE
        return tuple(s for s in RUNNING if s in self.stages or (both and s == "targeted"))

    @property
    def deployed(self) -> bool:
        """Whether proofs speak of every deployed evaluation, not only of real numbers."""
        return self.semantics is Semantics.DEPLOYED

    @property
    def within(self) -> PixelRange | None:
        """The range of pixels that claims are restricted to; None where they are about whole balls."""
        return self.pixel_range if self.clip_input else None
