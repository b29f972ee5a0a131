"""Proofs of what an estimate certified: the same bounds in float64, with proved norms and every rounding paid for."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llcert.bounds.dual import Backward, Choice, Chosen, Key, Tightest, differences
from llcert.bounds.enclose import enclose, enclosing_ball
from llcert.bounds.forward import Trace
from llcert.bounds.lipschitz import GlobalBound
from llcert.bounds.unmasked import proved_bound
from llcert.certify.plan import Plan
from llcert.certify.verdict import Assurance
from llcert.ir import Network
from llcert.program import Program, lower
from llcert.rounding import DOUBLE, SINGLE, Rounding, direct_sums
from llcert.spectral import RandomLanczos, Side, Solver, Verified

if TYPE_CHECKING:
    from llcert.certify.run import Settings


class Semantics(enum.Enum):
    """Which function a proof speaks of."""

    FLOAT32 = "float32"  # the network in real numbers, and as any float32 evaluation of its operators computes it
    REAL = "real"  # the network in real numbers alone


@dataclass(frozen=True)
class Prover:
    """Lower bounds of margins that hold for the network as it is run, or as real numbers.

    program: in float64. bound: its proved norms. solver: of local norms. side: what they must be at least. eps: not
    below the radius that was asked. deployed: the format the network runs in; None: in real numbers.
    """

    program: Program
    bound: GlobalBound
    solver: Solver
    eps: float
    side: Side
    deployed: Rounding | None
    clip: bool = False

    def __call__(self, images: Tensor, labels: Tensor, plan: Plan) -> Tensor:
        """Lower bounds of `z_y - z_j` over each ball, `[batch, logits]`; infinite for j = y. NaN proves nothing.

        images: `[batch, *input shape]`, pixel units.
        """
        with torch.no_grad(), direct_sums():
            return self._margins(images.to(torch.float64), labels, plan)

    def _margins(self, images: Tensor, labels: Tensor, plan: Plan) -> Tensor:
        region = enclosing_ball(images, self.eps, clip=self.clip)
        solver = self.solver if plan.local else None
        trace = enclose(self.program, region, self.bound, solver, rows=plan.rows, deployed=self.deployed)
        if trace.side is not Side.UPPER and trace.side is not self.side:
            raise ValueError(f"norms of side {trace.side.value} do not support a claim that needs {self.side.value}")
        backward = Backward(self.program, self.clip)
        directions = differences(labels, self.program)
        margins = backward.last(trace, {self.program.output: directions})
        if plan.backward:
            margins = self._carried(backward, trace, directions, margins, plan)
        own = torch.nn.functional.one_hot(labels, margins.shape[1]).bool()
        return torch.where(own, torch.inf, margins)

    def _carried(self, backward: Backward, trace: Trace, directions: Tensor, margins: Tensor, plan: Plan) -> Tensor:
        """The margins of what is still open, carried further down."""
        margins = margins.clone()
        image, row = torch.nonzero(~(margins > 0), as_tuple=True)
        if len(image):
            rows = {self.program.output: directions[image, row][:, None]}
            found = backward(trace.select(image), rows, Tightest(), stops=True)[:, 0]
            margins[image, row] = torch.fmax(margins[image, row], found)
        if plan.carried is not None and len(plan.carried.images):
            image, row = plan.carried.images, plan.carried.classes
            rows = {self.program.output: directions[image, row][:, None]}
            found = backward(trace.select(image), rows, Chosen(_double(plan.carried.choices)), stops=True)[:, 0]
            margins[image, row] = torch.fmax(margins[image, row], found)
        return margins


def _double(choices: Mapping[Key, Choice]) -> dict[Key, Choice]:
    return {k: Choice(c.slopes.double(), c.lam.double()) for k, c in choices.items()}


_ATTEMPTS = 4
"""At most so many plans ask for the norms of one image."""

_RATE = 1e10
"""Operations a second that a budget of seconds stands for, so that it means the same on every machine."""


def provers_of(network: Network, settings: Settings, device: torch.device | str) -> dict[Assurance, Prover]:
    """The prover of the assurance that is asked for, and of every weaker one that needs a proof."""
    program = lower(network, device, torch.float64)
    terms = [t for b in program.blocks for t in b.terms if not t.moves]
    budget = settings.proof_seconds * _RATE / max(len(terms), 1)
    verified = Verified(operations=budget)
    norms = _ATTEMPTS * (len(terms) + len(program.blocks))
    solvers: dict[Assurance, tuple[Solver, Side]] = {
        Assurance.PROBABILISTIC: (RandomLanczos(settings.delta / norms, seed=settings.seed), Side.PROBABLE),
        Assurance.DETERMINISTIC: (verified, Side.UPPER),
    }
    if settings.assurance is Assurance.PROBABILISTIC:
        del solvers[Assurance.DETERMINISTIC]
    with torch.no_grad(), direct_sums():
        bound = proved_bound(program, replace(verified, operations=_RATE * settings.proof_seconds))
    deployed = {Semantics.REAL: None, Semantics.FLOAT32: SINGLE if network.dtype == torch.float32 else DOUBLE}
    return {
        assurance: Prover(
            program,
            bound,
            solver,
            eps=math.nextafter(settings.eps, math.inf) if settings.eps else 0.0,
            side=side,
            deployed=deployed[settings.semantics],
            clip=settings.clip_input,
        )
        for assurance, (solver, side) in solvers.items()
    }
