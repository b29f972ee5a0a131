"""The provers of a certification: one for each assurance, with its solver of norms (docs/method.md, section 12)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from llcert.bounds import TIGHT, CheckerSlack
from llcert.bounds.backward.intermediate import Colorings
from llcert.bounds.global_lipschitz.proof import ProvedLipLT, proved_bound
from llcert.bounds.liplt import helps
from llcert.certification.heads import rounding
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.settings import Settings
from llcert.certification.verdict import Assurance
from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Network, format_name, topological
from llcert.machine.memory import free_memory
from llcert.numerics.products import direct_sums
from llcert.program import Program
from llcert.spectral import CachingSolver, MaskedOnly, RandomLanczos, Side, Solver, VerifiedCholesky

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
    network: Network,
    colorings: Colorings,
    settings: Settings,
    hints: Iterable[ProofHint],
    slack: CheckerSlack | None = None,
) -> dict[Assurance, Prover]:
    """The prover of the assurance that is asked for, and of every weaker one that needs a proof.

    colorings: of the network in float64, whose program the provers use. hints: all that may be followed for one image,
    each as often as it may be. slack: what deterministic proofs leave for a checker. Raises UnsupportedModel where what
    the network computes as it is run is not known.
    """
    program, deployed = colorings.program, settings.deployed
    if deployed:
        _check_parameters(program)
        _check_heads(network)
    verified = _verified(program, settings)
    whole = CachingSolver(replace(verified, operations=_WHOLE * verified.operations, maps=1))  # LipLT asks again
    with torch.no_grad(), direct_sums():
        bound = proved_bound(program, whole)
    passes = sum(hint.forward_passes for hint in hints)
    return {
        assurance: Prover(
            program,
            bound,
            MaskedOnly(solver, bound.norms),
            side=side,
            deployed=deployed,
            colorings=colorings,
            within=settings.within,
            slack=slack if slack is not None and side is Side.UPPER else TIGHT,
            specification=settings.specification,
            heads=network.heads,
            liplt=ProvedLipLT(program, whole) if helps(program) else None,
        )
        for assurance, (solver, side) in _solvers(program, settings, verified, passes).items()
    }


def _verified(program: Program, settings: Settings) -> VerifiedCholesky:
    """The solver of deterministic norms, with the time and the memory that one image's may take."""
    terms = [t for b in program.blocks for t in b.terms if not t.is_scaled_permutation]
    budget = settings.proof_seconds * _RATE / max(len(terms), 1)
    free = min(free_memory(d) for d in (program.device, torch.device("cpu")))  # a sparse one is the host's
    return VerifiedCholesky(operations=budget, memory=min(VerifiedCholesky.memory, max(_FREE * free, 1)))


def _solvers(
    program: Program, settings: Settings, verified: VerifiedCholesky, passes: int
) -> dict[Assurance, tuple[Solver, Side]]:
    """The solver of each assurance, and the side of the norms that it may return.

    passes: forward passes of one image at most, whose norms share the probability `settings.delta` of an error.
    """
    terms = [t for b in program.blocks for t in b.terms if not t.is_scaled_permutation]
    norms = max(passes, 1) * (len(terms) + len(program.blocks))
    solvers: dict[Assurance, tuple[Solver, Side]] = {
        Assurance.PROBABILISTIC: (RandomLanczos(settings.delta / norms, seed=settings.seed), Side.PROBABLE),
        Assurance.DETERMINISTIC: (verified, Side.UPPER),
    }
    if settings.assurance is Assurance.PROBABILISTIC:
        del solvers[Assurance.DETERMINISTIC]
    return solvers


def _check_parameters(program: Program) -> None:
    """Raises UnsupportedModel, naming the operator, where the format of a value does not hold a parameter.

    Thresholds of activations must be numbers of the format; coefficients may be rounded, but not overflow. program: in
    float64.
    """
    for node in topological(program.output):
        for name, tensor in node.op.tensors().items():
            held = tensor.to(node.dtype).to(tensor.dtype)
            lost = (held != tensor) & ~tensor.isnan()
            if bool((lost if isinstance(node.op, Activation) else lost & held.isinf()).any()):
                form, where = format_name(node.dtype), node.name or "without a name"
                raise UnsupportedModel(
                    f"{node.op.label} {where}: its {name} is no {form} number, though its value is computed in {form}; "
                    "--semantics real speaks of real numbers alone"
                )


def _check_heads(network: Network) -> None:
    """Raises UnsupportedModel where it is not known what rounds behind the logits."""
    try:
        for head in network.heads:
            rounding(head)
    except UnsupportedModel as unknown:
        raise UnsupportedModel(f"{network.source}: {unknown}") from None
