"""Everything an ONNX model holds, also inside branches and local functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import GraphProto, NodeProto, TensorProto


def nodes_within(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those of every graph among their attributes, outer ones first."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for graph in subgraphs(node):
            waiting.extend(graph.node)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes: branches and bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(model: onnx.ModelProto) -> Iterator[NodeProto]:
    """Every node of the graph, of its branches, and of the local functions."""
    yield from nodes_within(model.graph.node)
    for function in model.functions:
        yield from nodes_within(function.node)


def all_graphs(model: onnx.ModelProto) -> Iterator[GraphProto]:
    """The graph and every graph inside it or inside a local function."""
    yield model.graph
    for node in all_nodes(model):
        yield from subgraphs(node)


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor: initialisers and attributes, wherever they are."""
    for graph in all_graphs(model):
        yield from graph.initializer
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
    for function in model.functions:
        for default in function.attribute_proto:
            if default.HasField("t"):
                yield default.t
            yield from default.tensors
