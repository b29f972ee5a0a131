"""graph.json: the nodes of the network, its cuts, and the block of every cut (docs/certificate.md, section 1.2)."""

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
"""All nodes, and all bodies of blocks, may add up FREE numbers and FACTOR times those in model.npz: the work of the
checker then grows with the size of the files."""


@dataclass(frozen=True)
class Graph:
    """The network. nodes: in order of execution. blocks: by the number of their cut. classes: how many there are."""

    nodes: tuple[Node, ...]
    blocks: Mapping[int, Block]
    classes: int


def build(file: Mapping[str, Any], arrays: Arrays) -> Graph:
    """The network in graph.json (`file`) and model.npz (`arrays`). Raises InvalidCertificate where the files break
    section 1.2.

    In files of format 1, which have no types, every value is float32.
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
