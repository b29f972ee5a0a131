"""Nodes that tests add to networks."""

from __future__ import annotations

import torch

from llcert.ir import Node, apply
from llcert.ops import Reshape


def flattened(node: Node) -> Node:
    """The entries of a value as a vector."""
    return apply(Reshape((torch.Size(node.shape).numel(),)), node)
