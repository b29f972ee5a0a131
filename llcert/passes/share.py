"""Common subexpressions: equal operators on the same values become one node, so that rules may compare by identity."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from llcert.ir import Input, Node, Rule
from llcert.ops import Extreme, Take
from llcert.passes.constants import fingerprint

Key = tuple[object, ...]


def sharing() -> Rule:
    """A rule for one sweep over one graph: it remembers every node it has seen and returns the first of equals.

    Maxima and minima of two values get their values in one order, slices in theirs, so that those of the same two find
    each other.
    """
    seen: dict[Key, Node] = {}
    orders: dict[frozenset[Node], tuple[Node, ...]] = {}

    def share(given: Node) -> Node | None:
        node = given
        if isinstance(node.op, Extreme):
            inputs = orders.setdefault(frozenset(node.inputs), tuple(sorted(node.inputs, key=_first_index)))
            node = given if inputs == given.inputs else dataclasses.replace(node, inputs=inputs)
        first = seen.setdefault(_key(node), node)
        return None if first is given else first

    return share


def _first_index(node: Node) -> int:
    return node.op.indices[0] if isinstance(node.op, Take) else 0


def _key(node: Node) -> Key:
    if isinstance(node.op, Input):
        return (node,)
    values = (getattr(node.op, f.name) for f in dataclasses.fields(node.op))  # type: ignore[arg-type]
    fields = tuple(fingerprint(v) if isinstance(v, Tensor) else v for v in values)
    return (type(node.op), fields, node.inputs)
