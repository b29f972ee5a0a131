"""Proofs of what an estimate certified: the same bounds in float64, with proved norms and every rounding paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.dual import Backward, Choice, Chosen, Key, Tightest
from llcert.bounds.enclose import enclose, enclosing_ball
from llcert.bounds.forward import Rows, Trace
from llcert.bounds.lipschitz import GlobalBound
from llcert.program import Program
from llcert.rounding import Rounding
from llcert.spectral import Solver


@dataclass(frozen=True)
class Plan:
    """How the estimate got its certificates, which the proof repeats.

    local: whether norms are each image's own. rows: how they weight rows. backward: whether rows go down to the image,
    or stop at the last hidden values. choices: for the rows `pairs` (image, class), what an ascent found, `[pairs, 1, ...]`.
    """

    local: bool
    rows: Rows = Rows.MASK
    backward: bool = False
    pairs: tuple[Tensor, Tensor] | None = None
    choices: Mapping[Key, Choice] | None = None


@dataclass(frozen=True)
class Prover:
    """Lower bounds of margins that hold for the network as it is run, or as real numbers.

    program: in float64. bound: its proved norms. solver: of local norms; its side is the assurance. eps: not below
    the radius that was asked. deployed: the format the network runs in; None: in real numbers.
    """

    program: Program
    bound: GlobalBound
    solver: Solver
    eps: float
    deployed: Rounding | None
    clip: bool = False

    def __call__(self, images: Tensor, labels: Tensor, plan: Plan) -> Tensor:
        """Lower bounds of `z_y - z_j` over each ball, `[batch, logits]`; infinite for j = y. NaN proves nothing.

        images: `[batch, *input shape]`, pixel units.
        """
        region = enclosing_ball(images.to(torch.float64), self.eps, clip=self.clip)
        solver = self.solver if plan.local else None
        trace = enclose(self.program, region, self.bound, solver, rows=plan.rows, deployed=self.deployed)
        backward = Backward(self.program, self.clip)
        directions = differences(labels, self.program)
        margins = backward.last(trace, {self.program.output: directions})
        if plan.backward:
            margins = self._carried(backward, trace, directions, margins, plan)
        own = torch.nn.functional.one_hot(labels, margins.shape[1]).bool()
        return torch.where(own, torch.inf, margins)

    def _carried(
        self, backward: Backward, trace: Trace, directions: Tensor, margins: Tensor, plan: Plan
    ) -> Tensor:
        """The margins of what is still open, carried further down."""
        margins = margins.clone()
        image, row = torch.nonzero(~(margins > 0), as_tuple=True)
        if len(image):
            rows = {self.program.output: directions[image, row][:, None]}
            found = backward(trace.select(image), rows, Tightest(), stops=True)[:, 0]
            margins[image, row] = torch.fmax(margins[image, row], found)
        if plan.pairs is not None and plan.choices is not None:
            image, row = plan.pairs
            rows = {self.program.output: directions[image, row][:, None]}
            found = backward(trace.select(image), rows, Chosen(_double(plan.choices)), stops=True)[:, 0]
            margins[image, row] = torch.fmax(margins[image, row], found)
        return margins


def differences(labels: Tensor, program: Program) -> Tensor:
    """The rows `e_y - e_j` on the logits, `[batch, logits, logits]`."""
    unit = torch.eye(program.output.shape[0], dtype=program.dtype, device=program.device)
    return unit[labels][:, None] - unit


def _double(choices: Mapping[Key, Choice]) -> dict[Key, Choice]:
    return {k: Choice(c.slopes.double(), c.lam.double()) for k, c in choices.items()}
