"""What a classifier puts behind its logits: removed, since certificates are about the logits."""

from __future__ import annotations

import math

from llcert.ir import Node
from llcert.ops import Cast, Head, Reshape, Sigmoid
from llcert.passes.constants import on


def strip_head(output: Node) -> tuple[Node, tuple[str, ...]]:
    """The logits, of shape `(classes,)`, and a note for every final operator that was removed to reach them."""
    notes: list[str] = []
    node = output
    while (found := _behind_reshapes(node)) is not None:
        node = found.inputs[0]
        notes.append(_note(found))
    if len(node.shape) != 1:
        node = on(node, Reshape((math.prod(node.shape),)))
    return node, tuple(notes)


def _behind_reshapes(node: Node) -> Node | None:
    """The head that alone decides the output, up to what keeps the order of the classes behind it."""
    while isinstance(node.op, Reshape | Cast):
        (node,) = node.inputs
    if isinstance(node.op, Head) or (isinstance(node.op, Sigmoid) and math.prod(node.shape) >= 2):
        return node
    return None


def _note(node: Node) -> str:
    kind = node.op.kind if isinstance(node.op, Head) else "Sigmoid"
    if kind == "ArgMax":
        return "final ArgMax removed: certificates are about the logits whose largest it picks"
    return f"final {kind} removed: certificates are about the logits, whose order it keeps"
