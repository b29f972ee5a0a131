"""Common subexpressions: equal operators on the same values become one node, so that rules may compare by identity."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from llcert.ir import Input, Node, Rule
from llcert.passes.constants import fingerprint

Key = tuple[object, ...]


def sharing() -> Rule:
    """A rule for one sweep over one graph: it remembers every node it has seen and returns the first of equals."""
    seen: dict[Key, Node] = {}

    def share(node: Node) -> Node | None:
        first = seen.setdefault(_key(node), node)
        return None if first is node else first

    return share


def _key(node: Node) -> Key:
    if isinstance(node.op, Input):
        return (node,)
    values = (getattr(node.op, f.name) for f in dataclasses.fields(node.op))  # type: ignore[arg-type]
    fields = tuple(fingerprint(v) if isinstance(v, Tensor) else v for v in values)
    return (type(node.op), fields, node.inputs)
