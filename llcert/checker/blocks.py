"""The blocks of a network: the affine nodes in front of every cut, forwards, backwards and as one matrix a source."""

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
"""Multiplications that composing a block's map may take, a product of two matrices."""


@dataclass(frozen=True)
class Map:
    """The linear map of a block from one source: a matrix, off by at most `gamma(roundings) sizes` entrywise.

    sizes has a stored entry wherever the exact map may have one; the matrix may have lost some to underflow.
    """

    matrix: Matrix
    sizes: Matrix
    roundings: int


Values = Mapping[int, Vector]


@dataclass(frozen=True)
class Block:
    """What lies between the cuts `sources` and the value `pre` of the cut `cut`: the affine nodes `nodes`.

    form: of the value; forms: of the sources. forwards, backwards: roundings on the longest path through the body, of
    products with A and with its transpose.
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
        """Whether the rows of the maps from different sources do not meet: no row has entries in two of them."""
        met = sum((np.diff(m.sizes.indptr) > 0).astype(int) for m in self.maps.values())
        return bool(np.all(met <= 1))

    @cached_property
    def products(self) -> int:
        """Products of a row with the body, and numbers that are added up there, about."""
        matrices = sum(n.what.matrix.nnz for n in self.nodes.values() if isinstance(n.what, Linear))
        return matrices + sum(n.work for n in self.nodes.values())

    def value(self, sources: Values) -> Vector:
        """`A x + b` in float64, off by at most `gamma(forwards)` times the `size` of the same sources."""
        return self.walk(sources, lambda n, x: n.matrix @ x + n.offset)[self.pre]

    def halfwidth(self, sources: Values) -> Vector:
        """`|A| w` in float64, off by at most `gamma(forwards) |A| w`."""
        return self.walk(sources, lambda n, x: n.absolute @ x)[self.pre]

    def size(self, sources: Values) -> tuple[Vector, float]:
        """Upper bounds of `|A| |x| + magnitude`, every node's a little too large to pay for underflow, and of the sum
        of these numbers over the sources and all nodes of the body."""
        padded = {s: x + TINY for s, x in sources.items()}
        sizes = self.walk(padded, lambda n, x: n.absolute @ x + n.magnitude + TINY)
        total = sum(float(size.sum()) for size in sizes.values())
        return above(sizes[self.pre], self.forwards + 1), above(total, self.forwards + sum(map(len, sizes.values())))

    def walk(self, sources: Values, linear: Callable[[Linear, Vector], Vector]) -> dict[int, Vector]:
        """The values of the sources and of every node of the body, with `linear` in place of `A x + b`."""
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
        """The rows `A_s* row` of the sources, in float64, and lower bounds of `row . b`, for these float64 rows.

        rows: `[rows, entries]`. Rows and bound together are off by at most `gamma(backwards) |row| . size` on the
        sources' boxes, and where entries of rows underflow by `backwards` times the smallest normal number, times the
        sum of sizes of all nodes.
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
    """The block of a cut, whose nodes add up `most` numbers."""
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
    if isinstance(node.what, Take | Concat):
        return 0
    return (most(node.what) if isinstance(node.what, Linear) else len(node.inputs)) + 4


def _map(body: Mapping[int, Node], source: int, pre: int, size: int, forwards: int) -> Map:
    """The map of a block from one source; exact where the body is one matrix, or only moves values."""
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
    """The maps of all nodes of a body, made of the chosen matrices.

    kept: what is kept of each. Products drop entries that underflow; floored ones lose none, in no later product.
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
    """`a b`, unless that is too much work."""
    work = np.dot(np.bincount(a.indices, minlength=a.shape[1]).astype(float), np.diff(b.indptr).astype(float))
    valid(math.isfinite(work) and work <= MOST_WORK, "graph.json: a block's linear map is too large")
    return a @ b
