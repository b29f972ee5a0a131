"""Margins of a loss by the backward pass: one row, for the class that comes nearest to the true one."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.choices import Choice, Key
from llcert.bounds.backward.crown import Backward
from llcert.domain.relaxation import Relaxation
from llcert.domain.row_sharing import RowSharing
from llcert.program import Program


def raised_margins(program: Program, trace: Trace, labels: Tensor, margins: Tensor) -> Tensor:
    """Margins of which the least of each image is at least what the backward pass finds for it, `[batch, classes]`.

    margins: lower bounds on `z_y - z_j` over the trace's regions, infinite for j = y. The row `e_y - e_j` of the class
    with the least one is carried down to the image by CROWN's slopes (Zhang et al., NeurIPS 2018) and stops
    where that is best. The gradient passes boxes, balls, weights and slopes; multipliers are constants, for at the
    best one a bound does not change with it (docs/decisions/training-step.md).
    """
    rival = margins.detach().argmin(1)
    unit = torch.eye(margins.shape[1], dtype=margins.dtype, device=margins.device)
    rows = (unit[labels] - unit[rival])[:, None]
    bound = Backward(program)(trace, {program.output: rows}, _tightest, best_stop=True).lower
    known = margins.gather(1, rival[:, None])
    return margins.scatter(1, rival[:, None], torch.fmax(bound, known))


def _tightest(key: Key, relaxation: Relaxation, rows: Tensor, sharing: RowSharing) -> Choice:
    """The tightest slopes, and good multipliers without gradients."""
    slopes = relaxation.slopes(rows)
    _ = relaxation.values, relaxation.at_centre  # cached: with gradients, before they are asked for without
    with torch.no_grad():
        return Choice(slopes, relaxation.multipliers(rows, slopes, sharing=sharing)[0])
