"""Removes affine maps and broadcasts that are the identity."""

from __future__ import annotations

from llcert.ir import Node
from llcert.ops import Affine, Expand
from llcert.passes.constants import always


def drop_identity(node: Node) -> Node | None:
    """1 * x + 0 -> x, and a broadcast to the shape x has -> x."""
    match node:
        case Node(op=Affine(scale=scale, shift=shift), inputs=(x,)) if node.shape == x.shape:
            kept = (scale is not None and not always(scale, 1)) or (shift is not None and not always(shift, 0))
            return None if kept else x
        case Node(op=Expand(), inputs=(x,)) if node.shape == x.shape:
            return x
    return None
