"""Proofs of what an estimate certified: the same bounds in float64, with proved norms and every rounding paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.dual import Backward, Choice, Chosen, Key, Tightest, differences
from llcert.bounds.enclose import enclose, enclosing_ball
from llcert.bounds.forward import Trace
from llcert.bounds.lipschitz import GlobalBound
from llcert.certify.plan import Plan
from llcert.program import Program
from llcert.rounding import Rounding
from llcert.spectral import Side, Solver


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
        region = enclosing_ball(images.to(torch.float64), self.eps, clip=self.clip)
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
