"""Classes whose logits differ, and what a file answers behind its logits does not: rounding in a softmax or sigmoid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.ir import Op
from llcert.numerics.rounding import SINGLE
from llcert.ops import Head, Sigmoid

_SIGMOID = 64 * SINGLE.unit
"""What two sigmoids must differ by: each is good to 16 roundings of one."""

_SOFTMAX = 256 * SINGLE.unit
"""What two logits must differ by, for each 1 + log of the classes, so that a softmax or its logarithm tells them apart:
the exponentials of numbers down to -80 are good to 16 + 2 * 80 roundings, their quotient to one more."""

_DEEPEST = 80.0
"""How far below the largest logit an exponential in float32, over the sum of K of them, is a normal number, but for the
logarithm of K (exp(-87) is the smallest)."""


def told_apart(
    heads: Sequence[Sequence[Op]], margins: Tensor, references: Tensor, logits: Region, *, first: bool
) -> Tensor:
    """The margins that are differences of what the heads answer too, in float32; -inf for the others.

    heads: of each output, what stands behind the logits, at most one softmax or sigmoid. margins: lower bounds of
    `z_y - z_j` in every evaluation, `[batch, logits]`. references: y, `[batch]`. logits: their boxes. first: whether a
    claim needs y to be the largest, so that no other exponential counts. Raises UnsupportedModel for two of them.
    """
    own = logits.lower.gather(1, references[:, None]), logits.upper.gather(1, references[:, None])
    apart = torch.ones_like(margins, dtype=torch.bool)
    for op in filter(None, (rounding(found) for found in heads)):
        if isinstance(op, Sigmoid):
            apart &= _least_difference(margins, *own) > _SIGMOID
        else:
            apart &= margins > _SOFTMAX * (1 + math.log(margins.shape[1]))
            apart &= first | (logits.upper.amax(1, keepdim=True) - own[0] < _DEEPEST - math.log(margins.shape[1]))
    return torch.where(apart.scatter(1, references[:, None], True), margins, -torch.inf)


def rounding(head: Sequence[Op]) -> Op | None:
    """The one softmax or sigmoid in front of an output; None where nothing rounds.

    Raises UnsupportedModel for two.
    """
    found = [op for op in head if not (isinstance(op, Head) and op.kind == "ArgMax")]
    if len(found) > 1:
        raise UnsupportedModel(
            f"{' and '.join(op.label for op in found)} behind the logits: what two of them in a row round is unknown; "
            "keep one, or use --semantics real, which speaks of real numbers alone"
        )
    return found[0] if found else None


def _least_difference(margins: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A lower bound of `s(z) - s(z - m)` over `low <= z <= high`, s the sigmoid, m the margin.

    It rises up to z = m / 2 and falls from there on, so that its least is at an end.
    """
    return torch.minimum(*(torch.sigmoid(end) - torch.sigmoid(end - margins) for end in (low, high)))
