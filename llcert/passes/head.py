"""What a classifier puts behind its logits: removed, since certificates are about the logits.

Only operators of which it is known that they keep the order of the logits: softmax, its logarithm, sigmoid, and the
position of the largest. Every other operator stays, one that is derived from them too, and `check_legal` judges it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llcert.ir import Node, Op
from llcert.ops import Cast, Head, Reshape, Sigmoid
from llcert.passes.constants import on

HEADS = ("Softmax", "LogSoftmax", "ArgMax")
"""The kinds of `Head` that keep the order of the logits, or pick the largest."""


def strip_head(output: Node) -> tuple[Node, tuple[Op, ...]]:
    """The logits, of shape `(classes,)`, and what was removed to reach them, as a run meets it."""
    removed: list[Op] = []
    node = output
    while (found := _behind_reshapes(node)) is not None:
        node = found.inputs[0]
        removed.append(found.op)
    if len(node.shape) != 1:
        node = on(node, Reshape((math.prod(node.shape),)))
    return node, tuple(reversed(removed))


def notes_of(heads: Sequence[Op]) -> tuple[str, ...]:
    """What a report says of operators that were removed, the last one first."""
    return tuple(dict.fromkeys(_note(op) for op in reversed(heads)))


def _behind_reshapes(node: Node) -> Node | None:
    """The head that alone decides the output, up to what keeps the order of the classes behind it."""
    while type(node.op) in (Reshape, Cast):
        (node,) = node.inputs
    if type(node.op) is Head and node.op.kind in HEADS:
        return node
    return node if type(node.op) is Sigmoid and math.prod(node.shape) >= 2 else None


def _note(op: Op) -> str:
    kind = op.kind if isinstance(op, Head) else "Sigmoid"
    if kind == "ArgMax":
        return "final ArgMax removed: certificates are about the logits whose largest it picks"
    return f"final {kind} removed: certificates are about the logits, whose order it keeps; its rounding counts"
