"""Removes a cast to float64 and back."""

from __future__ import annotations

import torch

from llcert.ir import Node
from llcert.ops import Cast


def widened_and_back(node: Node) -> Node | None:
    """A float32 value cast to float64 and back -> the value itself; the other way round rounds it."""
    match node:
        case Node(op=Cast(), inputs=(Node(op=Cast(dtype=torch.float64), inputs=(x,)),)) if x.dtype == node.dtype:
            return x
    return None
