"""Networks as immutable graphs of nodes: how they are made, walked through and rewritten."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from llcert.errors import UnsupportedModel
from llcert.ir.operator import Input, Op, Shape
from llcert.numerics.rounding import FORMATS, Rounding


@dataclass(frozen=True, eq=False)
class Node:
    """One value in the network: an operation applied to earlier values.

    A network is its output node. There is no graph object, no name lookup and no mutation: a rewrite builds new
    nodes. name: the name in the imported file, for messages only. dtype: the number format in which the file computes
    the value; parameters are real numbers, in whatever format holds them.
    """

    op: Op
    inputs: tuple[Node, ...] = ()
    name: str = ""
    shape: Shape = field(kw_only=True)
    dtype: torch.dtype = field(kw_only=True, default=torch.float32)

    @property
    def rounding(self) -> Rounding:
        """The rounding of the value's format."""
        return FORMATS[self.dtype]


LARGEST = 2**27
"""Entries of the largest constant llcert takes from a file; one that asks for more is broken or hostile."""

LARGEST_VALUE = 2**24
"""Entries of the largest value of one image, likewise."""

LARGEST_TOGETHER = 2**25
"""Entries of all values of one image and of all parameters together, likewise; more where the file brings weights."""

LONGEST_AXIS = 2**16
"""Entries of the longest axis that repeated or padded entries may make, likewise."""


def apply(op: Op, *inputs: Node, name: str = "") -> Node:
    """The node `op(*inputs)`; its shape comes from running the operator on a batch of no images, which costs nothing.

    Raises RuntimeError, ValueError, IndexError or TypeError where shapes or number formats do not fit; importers name
    the node.
    """
    dtype = op.result_type(*(i.dtype for i in inputs))
    if isinstance(op, Input):
        return Node(op, (), name, shape=op.shape, dtype=dtype)
    place = next((t for t in op.tensors().values() if t.is_floating_point()), torch.zeros(()))
    with torch.no_grad():
        output = op(*(place.new_zeros(0, *i.shape) for i in inputs))
    if math.prod(output.shape[1:]) > LARGEST_VALUE:
        raise UnsupportedModel(
            f"{op.label} {name}: {tuple(output.shape[1:])} is more than llcert can hold, {LARGEST_VALUE:,} numbers; "
            "export the model for smaller images, or with fewer channels"
        )
    return Node(op, inputs, name, shape=tuple(output.shape[1:]), dtype=dtype)


def topological(output: Node) -> list[Node]:
    """Every node the output depends on, inputs before users, each once. Iterative: depth is not limited."""
    order: list[Node] = []
    state: dict[Node, bool] = {}
    stack = [output]
    while stack:
        node = stack[-1]
        if node in state:
            stack.pop()
            if not state[node]:
                state[node] = True
                order.append(node)
            continue
        state[node] = False
        stack.extend(i for i in reversed(node.inputs) if i not in state)
    return order


def last_reads(readers: Iterable[Iterable[Node]]) -> Iterator[list[Node]]:
    """For each reader in turn, the nodes among those it reads that no later reader needs."""
    listed = [tuple(nodes) for nodes in readers]
    last = {node: i for i, nodes in enumerate(listed) for node in nodes}
    return ([n for n in dict.fromkeys(nodes) if last[n] == i] for i, nodes in enumerate(listed))


Rule = Callable[[Node], Node | None]
"""A rewrite: the node that computes the same value better, or None where it does not apply."""


def rewrite(output: Node, rules: Sequence[Rule]) -> Node:
    """The network with every rule applied wherever it fires, inputs first, until none does at any node."""
    new: dict[Node, Node] = {}
    for node in topological(output):
        inputs = tuple(new[i] for i in node.inputs)
        current = node if inputs == node.inputs else dataclasses.replace(node, inputs=inputs)
        while (better := next((b for rule in rules if (b := rule(current)) is not None), None)) is not None:
            current = better
        new[node] = current
    return new[output]


def copied(output: Node) -> Node:
    """The same network with parameters of its own, without gradients."""
    new: dict[Node, Node] = {}
    for node in topological(output):
        tensors = {name: tensor.detach().clone() for name, tensor in node.op.tensors().items()}
        op = dataclasses.replace(node.op, **tensors) if tensors else node.op  # type: ignore[type-var]
        new[node] = dataclasses.replace(node, op=op, inputs=tuple(new[i] for i in node.inputs))
    return new[output]


def place(output: Node, device: torch.device | str, dtype: torch.dtype | None = None) -> Node:
    """The same network with its parameters on `device` in `dtype`; None: each in the format of its value."""

    new: dict[Node, Node] = {}
    for node in topological(output):
        inputs = tuple(new[i] for i in node.inputs)
        new[node] = dataclasses.replace(node, op=node.op.to(device, dtype or node.dtype), inputs=inputs)
    return new[output]
