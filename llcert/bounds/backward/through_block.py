"""One block of a backward pass: a linear bound in the block's output becomes one in the values that the block reads
(docs/method.md, Propositions 9.1 and 9.3; rounding: section 12, lemmas 6 and 8).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llcert.bounds.backward.choices import Choice, Policy
from llcert.bounds.backward.linear_bound import LinearBound
from llcert.bounds.forward.roundoff import BlockRoundoff
from llcert.bounds.forward.trace import Trace
from llcert.domain.row_sharing import RowSharing
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat
from llcert.program import Block, Program, Term


def through_activation(
    linear: LinearBound, trace: Trace, program: Program, index: int, policy: Policy
) -> tuple[LinearBound, Tensor]:
    """Replaces the output of block number `index` by its pre-activation z: the bound without the output, and the
    coefficients on z that belong to it, `[batch, rows, *pre shape]`.

    The relaxations of the activation are passed last first; what each of them costs is taken off the constant.
    """
    block = program.blocks[index]
    a, sharing, linear = linear.coefficients[block.node], linear.sharing_at(block.node), linear.without(block.node)
    constant, choices, relaxed = linear.constant, dict(linear.choices), dict(linear.relaxed)
    if trace.roundoff is not None and block.activation is not None:
        errors = sharing.sums(a.abs() * trace.roundoff[block.node].activation_error[:, None])
        constant = constant.plus(torch.zeros_like(errors), DOUBLE.above(errors, a[0].numel() + 8), errors)
    for number, relaxation in reversed(list(enumerate(trace.relaxations(block) or ()))):
        key = index, number
        inner, passing = relaxation.enter(a)
        choice = policy(key, relaxation, inner, sharing)
        choices[key], relaxed[key] = Choice(choice.slopes, choice.lam), inner
        before = relaxation.leave(choice.slopes * inner, passing)
        rounding = constant.rounding
        cost = relaxation.constant(inner, choice.slopes, choice.lam, rounding, sharing, choice.constant)
        error = None if rounding is None else _coefficient_error(trace, block, (a, before), sharing)
        constant, a = constant.plus(cost, error), before
    return replace(linear, constant=constant, choices=choices, relaxed=relaxed), a


def through_linear_map(
    linear: LinearBound, g: Tensor, trace: Trace, program: Program, index: int, offset: Tensor, sharing: RowSharing
) -> LinearBound:
    """The bound with `g . z`, z the pre-activation of block number `index`, as a function of the values it reads.

    offset: z where all of these are zero, `[1, *pre shape]`. sharing: of g.
    """
    block, error, evaluation = program.blocks[index], None, None
    if trace.roundoff is not None:
        error = _row_error(g, block, trace.roundoff[block.node], len(program.blocks), sharing)
        evaluation = sharing.sums(g.abs() * trace.roundoff[block.node].error[:, None])
    linear = replace(linear, constant=linear.constant.plus(sharing.sums(g * offset), error, evaluation))
    for term in block.terms:
        linear = linear.plus(term.source, _adjoint(term, g))
    return linear


def _adjoint(term: Term, rows: Tensor) -> Tensor:
    return term.adjoint(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])


def _row_error(g: Tensor, block: Block, roundoff: BlockRoundoff, blocks: int, sharing: RowSharing) -> Tensor:
    """What g times the block's linear map may err, against all values of its sources, and what g makes of the errors of
    an evaluation of the block, `[batch, bounds]` (lemma 8). blocks: of the program."""
    count = block.roundings + blocks + g[0].numel() + 16
    errors = DOUBLE.gamma(2 * count) * roundoff.size + roundoff.error
    paid = sharing.sums(g.abs() * errors[:, None])
    underflow = 4 * count * DOUBLE.tiny * roundoff.total[:, None]
    return DOUBLE.above(paid + underflow, count)


def _coefficient_error(trace: Trace, block: Block, coefficients: tuple[Tensor, Tensor], sharing: RowSharing) -> Tensor:
    """What the rounding of coefficients on their way through a relaxation may cost, `[batch, bounds]` (lemma 6): a few
    roundings of each times the largest value. coefficients: behind the relaxation and in front of it."""
    z, h = trace.pre_activation[block.node], trace.post_activation[block.node].region
    ends = (z.lower, z.upper, h.lower, h.upper, z.centre)
    largest = torch.stack([flat(e.abs()).amax(1) for e in ends]).amax(0)[:, None]
    after, before = coefficients
    paid = DOUBLE.gamma(16) * 4 * largest * (sharing.sums(after.abs()) + sharing.sums(before.abs()))
    return DOUBLE.above(paid, after[0].numel() + before[0].numel())
