"""What a softmax or sigmoid behind the logits means for margins: in float32 it may round different logits to one answer
(docs/method.md, section 12).
"""

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
"""Two sigmoids that differ by more are told apart in float32: each errs by at most 16 roundings of one."""

_SOFTMAX = 256 * SINGLE.unit
"""Two logits that differ by more than this times 1 + log of the classes are told apart by a softmax or its logarithm in
float32: the exponentials of numbers down to -80 err by at most 16 + 2 * 80 roundings, their quotient by one more."""

_DEEPEST = 80.0
"""How far below the largest logit, less the logarithm of the classes, a softmax is a normal number in float32: the
smallest one is exp(-87)."""


def told_apart(
    heads: Sequence[Sequence[Op]], margins: Tensor, references: Tensor, logits: Region, *, first: bool
) -> Tensor:
    """The margins `[batch, logits]` of which the heads keep the sign in float32; -inf for the others.

    heads: for each output of the network, the operators behind its logits. margins: lower bounds of `z_y - z_j` in
    every evaluation, `[batch, logits]`. references: y, `[batch]`. logits: their boxes. first: whether the specification
    needs y to be the largest, so that no exponential of a larger logit counts. Raises UnsupportedModel as `rounding`.
    """
    reference = logits.lower.gather(1, references[:, None]), logits.upper.gather(1, references[:, None])
    apart = torch.ones_like(margins, dtype=torch.bool)
    for op in filter(None, (rounding(found) for found in heads)):
        if op == Sigmoid():
            apart &= _least_difference(margins, *reference) > _SIGMOID
        else:
            apart &= margins > _SOFTMAX * (1 + math.log(margins.shape[1]))
            apart &= first | (logits.upper.amax(1, keepdim=True) - reference[0] < _DEEPEST - math.log(margins.shape[1]))
    return torch.where(apart.scatter(1, references[:, None], True), margins, -torch.inf)


def rounding(head: Sequence[Op]) -> Op | None:
    """The one softmax or sigmoid behind the logits of an output; None where nothing rounds there.

    Raises UnsupportedModel for two of them, and for any other operator: what it rounds is not known.
    """
    found = [op for op in head if op != Head("ArgMax")]
    for op in found:
        if op not in (Head("Softmax"), Head("LogSoftmax"), Sigmoid()):
            raise UnsupportedModel(
                f"{op.label} behind the logits: what it rounds is unknown; use --semantics real, which speaks of real "
                "numbers alone"
            )
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
