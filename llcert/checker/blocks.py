"""The affine part of a block (docs/certificate.md, section 1.2): its value, its transpose, its matrix from each source.

Every result comes with the number of roundings and the sizes from which its error follows (rules 1, 7 and 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from llcert.checker.activations import Activation
from llcert.checker.files import valid
from llcert.checker.nodes import Concat, Linear, Matrix, Node, Take, floored
from llcert.checker.numbers import TINY, Format, Vector, above, gamma, least_product

MOST_WORK = 2**29
"""Multiplications that a product of two matrices may take where the map of a block is composed."""


@dataclass(frozen=True)
class Map:
    """The linear map `A_s` of a block from one source s.

    matrix: off from `A_s` by at most `gamma(roundings) sizes`, entrywise. sizes: has a stored entry wherever `A_s` may
    have one; the matrix may have lost some to underflow.
    """

    matrix: Matrix
    sizes: Matrix
    roundings: int


Values = Mapping[int, Vector]


@dataclass(frozen=True)
class Block:
    """The affine nodes between the cuts `sources` and the value `pre` that the activation of `cut` reads.

    pre: the number of the node whose value is that of the block; `cut` itself where that is no activation. nodes: the
    body, by number, in order of execution; empty where pre is a cut of its own. maps: from every source. form, forms:
    the number formats of the cut and of the sources. forwards, backwards: an upper bound of the number of roundings
    behind an entry of `A h + b`, and of a product with the transpose of A.
    """

    cut: int
    pre: int
    nodes: Mapping[int, Node]
    sources: tuple[int, ...]
    maps: Mapping[int, Map]
    activation: Activation | None
    form: Format
    forms: Mapping[int, Format]
    forwards: int
    backwards: int

    @cached_property
    def disjoint(self) -> bool:
        """Whether no row has entries in the maps from two sources, as behind a concatenation."""
        met = sum((np.diff(m.sizes.indptr) > 0).astype(int) for m in self.maps.values())
        return bool(np.all(met <= 1))

    @cached_property
    def products(self) -> int:
        """About how many multiplications and additions it takes to bring a row backwards through the body."""
        matrices = sum(n.what.matrix.nnz for n in self.nodes.values() if isinstance(n.what, Linear))
        return matrices + sum(n.work for n in self.nodes.values())

    def value(self, sources: Values) -> Vector:
        """`A h + b` in float64 for values h of the sources, off by at most `gamma(forwards)` times their `size`."""
        return self.walk(sources, lambda n, x: n.matrix @ x + n.offset)[self.pre]

    def halfwidth(self, sources: Values) -> Vector:
        """`|A| w` in float64 for w >= 0 of the sources, off by at most `gamma(forwards) |A| w`."""
        return self.walk(sources, lambda n, x: n.absolute @ x)[self.pre]

    def size(self, sources: Values) -> tuple[Vector, float]:
        """Upper bounds of `|A| |h| + magnitude`, `[entries]`, and of the sum of these sizes over all nodes of the body
        and the sources. The size of every node is a little too large, which pays for underflow.

        sources: upper bounds of `|h|`.
        """
        padded = {s: x + TINY for s, x in sources.items()}
        sizes = self.walk(padded, lambda n, x: n.absolute @ x + n.magnitude + TINY)
        total = sum(float(size.sum()) for size in sizes.values())
        return above(sizes[self.pre], self.forwards + 1), above(total, self.forwards + sum(map(len, sizes.values())))

    def walk(self, sources: Values, linear: Callable[[Linear, Vector], Vector]) -> dict[int, Vector]:
        """The values of the sources and of all nodes of the body; `linear(node, x)` gives those of the linear nodes."""
        values = dict(sources)
        for number, node in self.nodes.items():
            inputs = [values[i] for i in node.inputs]
            if isinstance(node.what, Linear):
                values[number] = linear(node.what, inputs[0])
            elif isinstance(node.what, Take):
                values[number] = node.what(inputs[0])
            elif isinstance(node.what, Concat):
                values[number] = np.empty(node.size)
                for places, x in zip(node.what.places, inputs, strict=True):
                    values[number][places] = x
            else:
                values[number] = sum(inputs[1:], inputs[0])
        return values

    def transposed(self, rows: Vector) -> tuple[dict[int, Vector], Vector]:
        """The rows `A_s* row` of every source s in float64, and lower bounds of `row . b`; rows: `[rows, entries]`.

        For h in the boxes of the sources, `sum_s (A_s* row) . h_s + row . b` is off from `row . (A h + b)` by at most
        `gamma(backwards) |row| . size`, and where entries underflow by the smallest normal number times `backwards`
        times the sum of the sizes of all nodes.
        """
        found, constant = {self.pre: rows}, np.zeros(len(rows))
        for number, node in reversed([*self.nodes.items()]):
            row = found.pop(number)
            if isinstance(node.what, Linear):
                constant += least_product(row, node.what.offset)
            if isinstance(node.what, Linear | Take):
                parts = [(node.what.matrix.T @ row.T).T]
            elif isinstance(node.what, Concat):
                parts = [row[:, places] for places in node.what.places]
            else:
                parts = [row] * len(node.inputs)
            for i, part in zip(node.inputs, parts, strict=True):
                found[i] = found[i] + part if i in found else part
        return found, constant


def block_of(nodes: Sequence[Node], cuts: set[int], cut: int, most: int) -> Block:
    """The block of a cut. most: what its nodes may add up in all (`Node.work`); raises InvalidCertificate beyond it."""
    what = nodes[cut].what
    activation = what if isinstance(what, Activation) else None
    pre = nodes[cut].inputs[0] if activation else cut
    seen: set[int] = set()
    reached, waiting = set[int](), [pre]
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        if number in cuts and number != cut:
            reached.add(number)
        else:
            waiting.extend(nodes[number].inputs)
    body, sources = {k: nodes[k] for k in sorted(seen - reached)}, tuple(sorted(reached))
    valid(sum(n.work for n in body.values()) <= most, "graph.json: cuts: blocks share too many nodes")
    forwards = sum(_roundings(n, lambda a: a.rows) for n in body.values())
    backwards = sum(_roundings(n, lambda a: a.columns) + len(n.inputs) + 2 for n in body.values())
    backwards += sum(n.what.most for n in body.values() if isinstance(n.what, Take))
    maps = {s: _map(body, s, pre, nodes[s].size, forwards) for s in sources}
    forms = {s: nodes[s].form for s in sources}
    return Block(cut, pre, body, sources, maps, activation, nodes[cut].form, forms, forwards, backwards)


def _roundings(node: Node, most: Callable[[Linear], int]) -> int:
    """An upper bound of the roundings in an entry of a node's value. most: length of the longest sum of a product."""
    if isinstance(node.what, Take | Concat):
        return 0
    return (most(node.what) if isinstance(node.what, Linear) else len(node.inputs)) + 4


def _map(body: Mapping[int, Node], source: int, pre: int, size: int, forwards: int) -> Map:
    """The map of a block from one source. It has no error where the body is one matrix, or only moves values."""
    identity = sparse.eye_array(size, format="csr")
    what = body[pre].what if len(body) == 1 else None
    if isinstance(what, Linear):
        return Map(what.matrix, what.floored, 0)
    if not body:
        return Map(identity, identity, 0)
    matrix = _composed(body, {source: identity}, lambda n: n.matrix)[pre]
    matrix.sum_duplicates()
    if all(isinstance(n.what, Take | Concat) for n in body.values()):
        return Map(matrix, matrix, 0)
    sizes = _composed(body, {source: identity}, lambda n: n.floored, floored)[pre]
    sizes.sum_duplicates()
    return Map(matrix, sizes * (1 + gamma(forwards)), 2 * forwards)


def _composed(
    body: Mapping[int, Node],
    maps: dict[int, Matrix],
    choose: Callable[[Linear], Matrix],
    kept: Callable[[Matrix], Matrix] = sparse.csr_array,
) -> dict[int, Matrix]:
    """The maps from a source to all nodes of a body. maps: holds the identity at the source. choose: the matrix of a
    linear node.

    kept: applied to the map of every node. Sparse products drop entries that underflow to 0; if every map is `floored`,
    no entry gets lost.
    """
    for number, node in body.items():
        what, parts = node.what, []
        for place, i in enumerate(node.inputs):
            if i not in maps:
                continue
            if isinstance(what, Linear):
                parts.append(_product(choose(what), maps[i]))
            elif isinstance(what, Take):
                parts.append(_product(what.matrix, maps[i]))
            elif isinstance(what, Concat):
                places = what.places[place]
                ones = (np.ones(places.size), (places, np.arange(places.size)))
                parts.append(sparse.csr_array(ones, shape=(node.size, places.size)) @ maps[i])
            else:
                parts.append(maps[i])
        if parts:
            maps[number] = kept(sparse.csr_array(sum(parts[1:], parts[0])))
    return maps


def _product(a: Matrix, b: Matrix) -> Matrix:
    """`a b`. Raises InvalidCertificate where it takes more than `MOST_WORK` multiplications."""
    work = np.dot(np.bincount(a.indices, minlength=a.shape[1]).astype(float), np.diff(b.indptr).astype(float))
    valid(math.isfinite(work) and work <= MOST_WORK, "graph.json: a block's linear map is too large")
    return a @ b
