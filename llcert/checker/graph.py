"""The graph of a certificate: its nodes, its cuts, and the block of every cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llcert.checker.activations import Activation
from llcert.checker.blocks import Block, block_of
from llcert.checker.files import Arrays, valid
from llcert.checker.nodes import Node, integers, read_node

MOST_NODES, MOST_INPUTS = 10**4, 2 * 10**4
FREE, FACTOR = 2**22, 8
"""All nodes and blocks may add up so many numbers, and so many times those in model.npz: what the checker takes grows
with what it is given."""


@dataclass(frozen=True)
class Graph:
    """nodes: in order of execution. blocks: of every cut but the input, in order."""

    nodes: tuple[Node, ...]
    blocks: Mapping[int, Block]
    classes: int


def build(file: Mapping[str, Any], arrays: Arrays) -> Graph:
    """The graph in graph.json and model.npz. Raises InvalidInput where they are not as their description says.

    Files of format 1 know float32 alone.
    """
    listed = file.get("nodes")
    valid(isinstance(listed, list) and 1 < len(listed) <= MOST_NODES, "graph.json: nodes: no list of nodes")
    nodes: list[Node] = []
    for fields in listed or []:
        nodes.append(read_node(fields, nodes, arrays, typed=file["format"] > 1))
    most = FREE + FACTOR * arrays.entries
    valid(sum(len(n.inputs) for n in nodes) <= MOST_INPUTS, f"graph.json: nodes: more than {MOST_INPUTS} inputs")
    valid(sum(n.work for n in nodes) <= most, f"graph.json: nodes: values of more than {most} numbers")
    cuts = integers(file.get("cuts"), len(nodes), "cuts")
    needed = {0, len(nodes) - 1} | {k for k, n in enumerate(nodes) if isinstance(n.what, Activation)}
    valid(cuts == sorted(set(cuts)) and needed <= set(cuts), "graph.json: cuts: not in order, or one is missing")
    classes, last = file.get("classes"), nodes[-1].size
    valid(type(classes) is int and last in (classes, classes + 1) and last > 1, "graph.json: classes: not the logits")
    blocks = dict[int, Block]()
    for k in cuts[1:]:
        blocks[k] = block_of(nodes, set(cuts), k, most)
        most -= sum(n.work for n in blocks[k].nodes.values())
    return Graph(tuple(nodes), blocks, int(classes or 0))
