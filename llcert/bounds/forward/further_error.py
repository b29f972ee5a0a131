"""How much more a deployed evaluation of a block errs away from the centres of its sources.

For the verified arithmetic of the forward propagation; docs/method.md, section 12, lemma 3a.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Join, LinearOp, Node, stated_roundings
from llcert.numerics.rounding import DOUBLE, SINGLE
from llcert.program import Block


def further_error(block: Block, radii: Mapping[Node, Tensor], least: int = 0) -> Tensor:
    """Upper bounds of how much longer the errors of a deployed block may be than at the centres of its sources.

    `[batch]`, equation (12.2): the length of a vector by which `BlockSizes.deployed_error` at any values in the balls
    exceeds that at the centres at most. radii: of the balls of the sources, `[batch]` each. least: the number of
    roundings of a product that are paid for at least.
    """
    known = {s: _Increase(radius, torch.zeros_like(radius)) for s, radius in radii.items()}
    for node in block.body:
        known[node] = _step(block, node, [known[i] for i in node.inputs], least)
    return known[block.pre].error


@dataclass(frozen=True)
class _Increase:
    """Upper bounds of the lengths by which sizes and errors of a value exceed those at the centre, `[batch]` each."""

    size: Tensor
    error: Tensor


def _step(block: Block, node: Node, inputs: list[_Increase], least: int) -> _Increase:
    magnitude, op, form = block.magnitudes[node], node.op, node.rounding
    size = DOUBLE.above(magnitude.norm * torch.stack([i.size for i in inputs]).sum(0), len(inputs) + 1)
    carried = DOUBLE.above(magnitude.norm * torch.stack([i.error for i in inputs]).sum(0), len(inputs) + 1)
    assert isinstance(op, LinearOp | Join)
    if op.copies:
        narrowed = form is SINGLE and any(i.dtype != node.dtype for i in node.inputs)
        return _Increase(size, DOUBLE.above(carried + SINGLE.unit * (size + carried), 4) if narrowed else carried)
    if isinstance(op, LinearOp):
        weak = 2**24 * form.tiny * magnitude.longest
        carried = DOUBLE.above(carried + weak * (inputs[0].size + inputs[0].error), 4)
    once = max(stated_roundings(op), least) if stated_roundings(op) else 0
    factor = form.unit * (once + magnitude.terms - 1) * (1 + 4 * form.gamma(magnitude.terms + once + 8))
    return _Increase(size, DOUBLE.above(carried + factor * (size + carried), 8))
