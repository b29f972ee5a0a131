"""From a network to a program: where blocks end, and which nodes lie in each (docs/method.md, section 2).

docs/decisions/cut-rule.md says why they end there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from llcert.errors import UnsupportedModel
from llcert.ir import (
    Activation,
    Input,
    Join,
    LinearOp,
    Network,
    Node,
    apply,
    place,
    topological,
)
from llcert.ops import Clamp, Pad
from llcert.program.blocks import Block, Program
from llcert.program.term import Term


def lower(network: Network, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Program:
    """The program that computes a network. Cuts it at activations and at values where several branches meet and part.

    A concatenation of different sources is cut too, so that its ball is the root of the sum of squares.
    Raises UnsupportedModel for operators that are neither linear nor an activation, and where there is none at all.
    """
    _check(network)
    device = torch.device(device)
    output = _unclipped(place(network.output, device, dtype))
    cuts = _cuts(output)
    order = topological(output)
    place_of = {node: i for i, node in enumerate(order)}
    blocks = tuple(_block(n, cuts, place_of) for n in order if n in cuts and not isinstance(n.op, Input))
    return Program(next(n for n in order if isinstance(n.op, Input)), blocks, network.classes, device, dtype)


def _unclipped(output: Node) -> Node:
    """The logits in front of a final ReLU, and a zero that stands for it.

    `relu(z)_y > relu(z)_j` for all j exactly if `z_y > z_j` for all j and `z_y > 0`; a linear last block is tighter.
    """
    if not (isinstance(output.op, Clamp) and output.op.is_relu and output.op.high is None):
        return output
    return apply(Pad(((0, 1),)), output.inputs[0], name=output.name)


def _check(network: Network) -> None:
    if isinstance(network.output.op, Input):
        raise UnsupportedModel(f"{network.source or 'network'}: the output is the input; there is no layer to bound")
    inputs = [n for n in topological(network.output) if isinstance(n.op, Input)]
    if inputs != [network.input]:
        raise UnsupportedModel(f"{network.source or 'network'}: {len(inputs)} inputs; llcert knows one image")
    for node in network.operators():
        if not isinstance(node.op, LinearOp | Join | Activation):
            raise UnsupportedModel(f"{node.op.label} {node.name}: no bound is known; canonicalise the network first")


def _cuts(output: Node) -> frozenset[Node]:
    """The nodes at which blocks end, and the input."""
    order = topological(output)
    users: dict[Node, list[Node]] = {n: [] for n in order}
    for node in order:
        for i in node.inputs:
            users[i].append(node)
    cuts: set[Node] = {output}
    sources: dict[Node, frozenset[Node]] = {}
    for node in order:
        merged = frozenset().union(*(sources[i] for i in node.inputs))
        if isinstance(node.op, Input | Activation):
            cuts.add(node)
        elif isinstance(node.op, Join) and node.op.copies and len(merged) > 1:
            for part in (i for i in node.inputs if len(sources[i]) > 1):
                cuts.add(part)
                sources[part] = frozenset((part,))
            cuts.add(node)
        elif len(merged) > 1 and len(users[node]) > 1 and any(isinstance(u.op, Activation) for u in users[node]):
            cuts.add(node)
        sources[node] = frozenset((node,)) if node in cuts else merged
    return frozenset(cuts)


def _block(node: Node, cuts: frozenset[Node], order: Mapping[Node, int]) -> Block:
    activation = node.op if isinstance(node.op, Activation) else None
    pre = node.inputs[0] if activation else node
    body = () if activation and pre in cuts else _between(pre, cuts, order)
    members = frozenset(body)
    sources = tuple(dict.fromkeys(i for n in body for i in n.inputs if i not in members)) or (pre,)
    terms = tuple(Term(s, reached(s, body), pre, node) for s in sources)
    disjoint = pre in members and isinstance(pre.op, Join) and pre.op.copies
    return Block(node, pre, body, terms, activation, disjoint)


def _between(pre: Node, cuts: frozenset[Node], order: Mapping[Node, int]) -> tuple[Node, ...]:
    """`pre` and the linear nodes it depends on up to the cuts, in order."""
    inside: set[Node] = {pre}
    stack = [pre]
    while stack:
        for i in stack.pop().inputs:
            if i not in cuts and i not in inside:
                inside.add(i)
                stack.append(i)
    return tuple(sorted(inside, key=order.__getitem__))


def reached(source: Node, body: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes of `body`, inputs before users, that depend on the source, which lies in front of it."""
    found = {source: None}
    for node in body:
        if any(i in found for i in node.inputs):
            found[node] = None
    return tuple(found)[1:]
