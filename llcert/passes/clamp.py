"""Chains of minima and maxima with constants, and the subtractions that spell them: one Clamp each."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from llcert.ir import Node
from llcert.ops import Add, Affine, Clamp
from llcert.ops.clamp import Spelling
from llcert.passes.constants import always, higher, lower, on, same


def drop_infinite_bounds(node: Node) -> Node | None:
    """Bounds that bind nowhere are none; a Clamp without bounds is its input."""
    if not isinstance(node.op, Clamp):
        return None
    low, high = node.op.low, node.op.high
    if low is None and high is None:
        return node.inputs[0]
    low = None if always(low, -torch.inf) else low
    high = None if always(high, torch.inf) else high
    if low is node.op.low and high is node.op.high:
        return None
    return dataclasses.replace(node, op=dataclasses.replace(node.op, low=low, high=high))


def merge(node: Node) -> Node | None:
    """clamp(clamp(z)) -> clamp(z); exact for every order of the bounds, since minimum and maximum distribute.

    A trained bound is merged only where training cannot change which of two bounds binds, with one exception: that an
    upper bound stays above the lower one, `theta >= 0`, is what trainers keep. An upper bound that is taken by sums is
    not merged with another one: what the sums round depends on their own.
    """
    match node:
        case Node(op=Clamp(low=low, high=high) as outer, inputs=(Node(op=Clamp() as inner, inputs=(z,)),)):
            summed = {inner.spelling, outer.spelling} != {Spelling.MINIMUM}
            if summed and not (inner.high is None or high is None):
                return None
            spelling = inner.spelling if high is None else outer.spelling
            ceiling = inner.high if inner.high is None else higher(inner.high, low)
            keeps_room = ceiling is inner.high or not _trained(inner.high, low)
            if keeps_room and not _trained(inner.low, low) and not _trained(ceiling, high):
                return on(z, Clamp(higher(inner.low, low), lower(ceiling, high), spelling), node.name)
    return None


def _trained(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether training may change which of two bounds binds."""
    return a is not None and b is not None and a is not b and (a.requires_grad or b.requires_grad)


def unreflect(node: Node) -> Node | None:
    """t - relu(t - x) -> min(x, t): how networks without a minimum spell ReLU-theta."""
    match node:
        case Node(
            op=Affine(scale=outer, shift=Tensor() as t),
            inputs=(Node(op=Clamp() as relu, inputs=(Node(op=Affine(scale=inner, shift=s), inputs=(x,)),)),),
        ) if _is_plain_relu(relu) and always(outer, -1) and always(inner, -1) and same(s, t):
            return on(x, Clamp(high=t, spelling=Spelling.REFLECTED), node.name) if node.shape == x.shape else None
    return None


def excess_removed(node: Node) -> Node | None:
    """x - relu(x - t) -> min(x, t); relu(z) - relu(z - t) -> min(relu(z), t) for t >= 0."""
    if not isinstance(node.op, Add) or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    for value, negated in ((a, b), (b, a)):
        excess = _excess(negated)
        if excess is not None:
            z, t = excess
            if z is value or (_is_relu_of(value, z) and bool((t >= 0).all())):
                return on(value, Clamp(high=t, spelling=Spelling.EXCESS), node.name)
    return None


def _excess(node: Node) -> tuple[Node, Tensor] | None:
    """z and t where the node is -relu(z - t)."""
    match node:
        case Node(
            op=Affine(scale=minus, shift=None),
            inputs=(Node(op=Clamp() as relu, inputs=(Node(op=Affine(scale=None, shift=Tensor() as s), inputs=(z,)),)),),
        ) if always(minus, -1) and _is_plain_relu(relu) and not s.requires_grad and z.shape == node.shape:
            return z, -s
    return None


def _is_plain_relu(op: Clamp) -> bool:
    return op.high is None and always(op.low, 0)


def _is_relu_of(node: Node, z: Node) -> bool:
    return isinstance(node.op, Clamp) and _is_plain_relu(node.op) and node.inputs[0] is z
