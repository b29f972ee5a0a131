"""Transpositions and reshapes pushed towards the output, past what works entry by entry, until they meet an inverse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from llcert.ir import Node, Op, apply
from llcert.ops import (
    Add,
    Affine,
    Cast,
    Clamp,
    Concat,
    Divide,
    GroupSort,
    Leaky,
    MaxMin,
    Reshape,
    Sigmoid,
    Tanh,
    Transpose,
)
from llcert.passes.constants import on


def below_elementwise(node: Node) -> Node | None:
    """phi(transpose(x)) -> transpose(phi(x)), and the same for reshape where phi treats all entries alike."""
    if len(node.inputs) != 1 or node.shape != node.inputs[0].shape:
        return None
    (moved,) = node.inputs
    match moved.op:
        case Transpose(order=order):
            op = _permuted(node.op, order)
        case Reshape():
            op = _of_one_number(node.op, len(moved.inputs[0].shape))
        case _:
            return None
    return None if op is None else on(on(moved.inputs[0], op, node.name), moved.op)


def below_join(node: Node) -> Node | None:
    """A sum or a concatenation of values transposed alike -> the transposition of their sum or concatenation."""
    if not node.inputs or not all(isinstance(i.op, Transpose) for i in node.inputs):
        return None
    first = node.inputs[0].op
    if not isinstance(first, Transpose) or any(i.op != first for i in node.inputs):
        return None
    match node.op:
        case Add():
            op: Op = node.op
        case Concat(axis=axis):
            op = Concat(first.order[axis])
        case _:
            return None
    return on(apply(op, *(i.inputs[0] for i in node.inputs), name=node.name), first)


def _of_one_number(op: Op, rank: int) -> Op | None:
    """The operator where it treats all entries alike, without the axes of its numbers that a value of `rank` lacks."""
    tensors = op.tensors()
    alike = isinstance(op, Affine | Cast | Clamp | Divide | Leaky | Sigmoid | Tanh)
    if not alike or any(t.numel() != 1 for t in tensors.values()):
        return None
    tall = {name: tensor for name, tensor in tensors.items() if tensor.ndim > rank}
    if any(t.requires_grad for t in tall.values()):
        return None
    low: dict[str, Any] = {name: tensor.reshape(()) for name, tensor in tall.items()}
    return dataclasses.replace(op, **low) if low else op  # type: ignore[type-var]


def _permuted(op: Op, order: tuple[int, ...]) -> Op | None:
    """The operator that commutes with the transposition; None where there is none that keeps trained tensors."""
    match op:
        case Affine() | Cast() | Clamp() | Divide() | Leaky() | Sigmoid() | Tanh():
            fields: dict[str, Any] = {}
        case MaxMin(axis=axis) | GroupSort(axis=axis):
            fields = {"axis": order[axis]}
        case _:
            return None
    tensors = op.tensors()
    if any(t.requires_grad and t.numel() != 1 for t in tensors.values()):
        return None
    fields |= {name: _back(order)(tensor) for name, tensor in tensors.items()}
    return dataclasses.replace(op, **fields) if fields else op


def _back(order: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Undoes the transposition on a tensor that broadcasts against its result."""
    inverse = sorted(range(len(order)), key=order.__getitem__)

    def back(tensor: Tensor) -> Tensor:
        if tensor.numel() == 1:
            return tensor
        return tensor.reshape(*[1] * (len(order) - tensor.ndim), *tensor.shape).permute(inverse)

    return back
