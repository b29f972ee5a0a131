"""The provers of a run: one for each assurance, with the solvers of norms that it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from llcert.bounds import TIGHT, CheckerSlack, GlobalBound
from llcert.bounds.backward.intermediate import Colorings
from llcert.bounds.global_lipschitz.norms import MaskedOnly
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.bounds.liplt import Composed
from llcert.certification.proof.prover import Prover
from llcert.certification.proof.requirements import check_deployable
from llcert.certification.radii import above
from llcert.certification.settings import Semantics, Settings
from llcert.certification.verdict import Assurance
from llcert.ir import Network
from llcert.machine.memory import free_memory
from llcert.numerics.rounding import direct_sums
from llcert.program import Program, lower
from llcert.spectral import RandomLanczos, Remembered, Side, Solver, Verified

_ATTEMPTS = 12
"""At most so often are the norms of one image asked for: three hints of the stage local, one of crown-ball, two each of
crown-ball-intermediate and branch, which propagate twice, two of a search for its radius, and some to spare."""

_WHOLE = 10.0
"""The norms of whole maps, proved once a network, may take so many times what those of an image may take."""

_FREE = 0.5
"""Share of the free memory that a factorisation may take."""

_RATE = 1e10
"""Operations a second that a budget of seconds stands for, so that it means the same on every machine."""


@dataclass(frozen=True)
class Checkable:
    """A network of which deterministic proofs keep their evidence.

    program: the network in float64, whose nodes the evidence names. slack: what a proof leaves for a checker.
    """

    program: Program
    slack: CheckerSlack


def provers_of(
    network: Network, settings: Settings, device: torch.device | str, checkable: Checkable | None = None
) -> dict[Assurance, Prover]:
    """The prover of the assurance that is asked for, and of every weaker one that needs a proof.

    checkable: the same network, where proofs are to leave room for a checker. Raises UnsupportedModel where nothing is
    known of the network as it is run.
    """
    program = lower(network, device, torch.float64) if checkable is None else checkable.program
    deployed = settings.semantics is Semantics.FLOAT32
    if deployed:
        check_deployable(network, program)
    verified = _verified(program, settings)
    whole = Remembered(replace(verified, operations=_WHOLE * verified.operations, maps=1))  # LipLT asks again
    with torch.no_grad(), direct_sums():
        bound = proved_bound(program, whole)

    @cache
    def liplt() -> GlobalBound:
        with torch.no_grad(), direct_sums():
            return proved_bound(program, whole, Composed.of(program))

    colorings = Colorings(program)
    return {
        assurance: Prover(
            program,
            bound,
            MaskedOnly(solver),
            eps=above(settings.eps),
            side=side,
            deployed=deployed,
            colorings=colorings,
            within=settings.within,
            slack=checkable.slack if checkable is not None and side is Side.UPPER else TIGHT,
            specification=settings.specification,
            heads=network.heads,
            liplt=liplt,
        )
        for assurance, (solver, side) in _solvers(program, settings, verified).items()
    }


def _verified(program: Program, settings: Settings) -> Verified:
    """The solver of deterministic norms, with the time and the memory that one image's may take."""
    terms = [t for b in program.blocks for t in b.terms if not t.moves]
    budget = settings.proof_seconds * _RATE / max(len(terms), 1)
    free = min(free_memory(d) for d in (program.device, torch.device("cpu")))  # a sparse one is the host's
    return Verified(operations=budget, memory=min(Verified.memory, max(_FREE * free, 1)))


def _solvers(program: Program, settings: Settings, verified: Verified) -> dict[Assurance, tuple[Solver, Side]]:
    """The solver of each assurance, and the side of the norms that it may return."""
    terms = [t for b in program.blocks for t in b.terms if not t.moves]
    norms = _ATTEMPTS * (len(terms) + len(program.blocks))
    solvers: dict[Assurance, tuple[Solver, Side]] = {
        Assurance.PROBABILISTIC: (RandomLanczos(settings.delta / norms, seed=settings.seed), Side.PROBABLE),
        Assurance.DETERMINISTIC: (verified, Side.UPPER),
    }
    if settings.assurance is Assurance.PROBABILISTIC:
        del solvers[Assurance.DETERMINISTIC]
    return solvers
