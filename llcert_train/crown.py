"""Margins of a loss by the backward pass: one row, for the class that comes nearest to the true one."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.dual import Backward, Choice, Key
from llcert.layout import Layout
from llcert.program import Program
from llcert.relaxation import Relaxation


def raised_margins(program: Program, trace: Trace, labels: Tensor, margins: Tensor) -> Tensor:
    """Margins of which the least of each image is at least what the backward pass finds for it, `[batch, classes]`.

    margins: lower bounds on `z_y - z_j` over the trace's regions, infinite for j = y. The row `e_y - e_j` of the class
    with the least one is carried down to the image by CROWN's slopes (Zhang et al. 2018; METHOD, section 7) and stops
    where that is best. All is differentiated but the multipliers: at its best one a bound does not change with it.
    Slopes are: with a chord's slope both ends of a box count, and at a slope that stays the bound has a kink there.
    """
    rival = margins.detach().argmin(1)
    unit = torch.eye(margins.shape[1], dtype=margins.dtype, device=margins.device)
    rows = (unit[labels] - unit[rival])[:, None]
    bound = Backward(program)(trace, {program.output: rows}, _tightest, stops=True)
    known = margins.gather(1, rival[:, None])
    return margins.scatter(1, rival[:, None], torch.fmax(bound, known))


def _tightest(key: Key, step: Relaxation, rows: Tensor, layout: Layout) -> Choice:
    """The tightest slopes, and good multipliers without gradients."""
    slopes = step.slopes(rows)
    _ = step.values, step.at_centre  # kept by the step, so they are computed with gradients before they are without
    with torch.no_grad():
        return Choice(slopes, step.multipliers(rows, slopes, layout=layout)[0])
