"""Transpositions and reshapes pushed towards the output, past what commutes with them, until they meet an inverse."""

from __future__ import annotations

import dataclasses
from typing import Any

from llcert.ir import Join, Node, Op, apply
from llcert.ops import Reshape, Transpose
from llcert.passes.constants import on


def below_transposition(node: Node) -> Node | None:
    """op(transpose(x), ...) -> transpose(op'(x, ...)), where the operator has such a counterpart."""
    if not node.inputs or not (isinstance(node.op, Join) or node.shape == node.inputs[0].shape):
        return None
    first = node.inputs[0].op
    if not isinstance(first, Transpose) or any(i.op != first for i in node.inputs):
        return None
    op = node.op.commuted(first.order)
    return None if op is None else on(apply(op, *(i.inputs[0] for i in node.inputs), name=node.name), first)


def below_reshape(node: Node) -> Node | None:
    """op(reshape(x)) -> reshape(op(x)), where it treats all entries alike."""
    if len(node.inputs) != 1 or node.shape != node.inputs[0].shape or not isinstance(node.inputs[0].op, Reshape):
        return None
    (moved,) = node.inputs
    op = _of_one_number(node.op, len(moved.inputs[0].shape))
    return None if op is None else on(on(moved.inputs[0], op, node.name), moved.op)


def _of_one_number(op: Op, rank: int) -> Op | None:
    """The operator where it treats all entries alike, without the axes of its numbers that a value of `rank` lacks."""
    tensors = op.tensors()
    if not op.entrywise or any(t.numel() != 1 for t in tensors.values()):
        return None
    tall = {name: tensor for name, tensor in tensors.items() if tensor.ndim > rank}
    if any(t.requires_grad for t in tall.values()):
        return None
    low: dict[str, Any] = {name: tensor.reshape(()) for name, tensor in tall.items()}
    return dataclasses.replace(op, **low) if low else op  # type: ignore[type-var]
