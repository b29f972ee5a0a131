"""Reshapes, transpositions, slices and concatenations of one value: judged by what they do to every entry."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llcert.ir import Node, Op
from llcert.ops import Concat, Reshape, Take, Transpose
from llcert.passes.constants import on


def shortest(node: Node) -> Node | None:
    """Data movement from one source -> the source, one Reshape or one Take of it, where that does the same."""
    if not _moves(node) or math.prod(node.shape) == 0:
        return None
    for source, between in _sources(node):
        found = _direct(source, node, _index_map(source, between))
        simpler = found is source or len(between) > 1 or isinstance(node.op, Transpose)
        if found is not None and simpler:
            return found
    return None


def _moves(node: Node) -> bool:
    return isinstance(node.op, Reshape | Transpose | Take | Concat)


def _sources(node: Node) -> Iterator[tuple[Node, list[Node]]]:
    """Values that alone determine the node by movement, farthest first, with the nodes between, inputs first."""
    order = _region(node)
    frontier, expanded = {node}, list[Node]()
    found: list[tuple[Node, int]] = []
    for latest in reversed(order):
        if latest not in frontier or not _moves(latest):
            continue
        frontier = (frontier - {latest}) | set(latest.inputs)
        expanded.append(latest)
        if len(frontier) == 1:
            found.append((next(iter(frontier)), len(expanded)))
    for source, count in reversed(found):
        yield source, expanded[:count][::-1]


def _region(node: Node) -> list[Node]:
    """The movement nodes behind a node and the values they start from, inputs before users."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(node, False)]
    while stack:
        current, finished = stack.pop()
        if finished:
            order.append(current)
        elif current not in seen:
            seen.add(current)
            stack.append((current, True))
            stack.extend((i, False) for i in current.inputs if _moves(current))
    return order


def _index_map(source: Node, between: list[Node]) -> Tensor:
    """For each entry of the last node, which entry of the source (row-major) it is; `[*shape]`."""
    values = {source: torch.arange(math.prod(source.shape)).reshape(1, *source.shape)}
    for node in between:
        values[node] = node.op(*(values[i] for i in node.inputs))
    return values[between[-1]][0]


def _direct(source: Node, node: Node, origin: Tensor) -> Node | None:
    """The source, or one Reshape or Take of it, that moves every entry as `origin` says; None where neither does."""
    everything = torch.arange(math.prod(source.shape))
    if torch.equal(origin.flatten(), everything):
        return source if node.shape == source.shape else on(source, Reshape(node.shape), node.name)
    taken = _as_take(everything.reshape(source.shape), origin)
    return None if taken is None else on(source, taken, node.name)


def _as_take(entries: Tensor, origin: Tensor) -> Op | None:
    if entries.ndim != origin.ndim:
        return None
    differing = [a for a in range(entries.ndim) if entries.shape[a] != origin.shape[a]]
    if len(differing) > 1:
        return None
    for axis in differing or range(entries.ndim):
        line = origin.movedim(axis, 0).reshape(origin.shape[axis], -1)[:, 0]
        indices = line // entries.stride(axis) % entries.shape[axis]
        if torch.equal(entries.index_select(axis, indices), origin):
            return Take(axis, tuple(indices.tolist()))
    return None
