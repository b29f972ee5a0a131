"""The network of a certificate: nodes, cuts, and the affine block in front of every cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from llcert.check.activations import Activation, Clamp, Leaky, MaxMin
from llcert.check.files import Arrays, Integers, valid
from llcert.check.numbers import FORMATS, TINY, Format, Vector, above, gamma, least_product

Matrix = Any  # scipy.sparse.csr_array, which has no types
MOST_NODES, MOST_INPUTS, LARGEST_SIZE, MOST_WORK = 10**4, 2 * 10**4, 2**24, 2**29
FREE, FACTOR = 2**22, 8
"""All nodes and blocks may add up so many numbers, and so many times those in model.npz: what the checker takes grows
with what it is given."""
LEAST = 2.0**-100
"""What a size counts as at least: gamma, also of float32, times two of them pays for an underflow."""


@dataclass(frozen=True)
class Linear:
    """`A x + b`. magnitude: >= abs(b). rows, columns: the most entries in any of them. exact: whether all entries are 1
    or -1, so that a product is no rounding."""

    matrix: Matrix
    absolute: Matrix
    offset: Vector
    magnitude: Vector
    rows: int
    columns: int
    exact: bool = False

    @cached_property
    def floored(self) -> Matrix:
        """The absolute matrix, every stored entry at least `LEAST`."""
        return floored(self.absolute)

    @cached_property
    def pattern(self) -> Matrix:
        """1 for every stored entry."""
        return with_data(self.matrix, np.ones_like(self.matrix.data))


@dataclass(frozen=True)
class Take:
    """`y_i = x[places_i]`, 0 where the place is -1. inputs: size of x. most: how often an entry is taken."""

    places: Integers
    inputs: int
    most: int

    def __call__(self, x: Vector) -> Vector:
        return np.where(self.places >= 0, x[self.places], 0.0)

    def transposed(self, row: Vector) -> Vector:
        """The adjoint; rounded only where an entry is taken more than once."""
        held = self.places >= 0
        return np.bincount(self.places[held], row[held], minlength=self.inputs).astype(float)

    @cached_property
    def matrix(self) -> Matrix:
        """The same as a matrix."""
        (rows,) = np.nonzero(self.places >= 0)
        return sparse.csr_array((np.ones(rows.size), (rows, self.places[rows])), shape=(self.places.size, self.inputs))


@dataclass(frozen=True)
class Concat:
    """`y[places_i] = x_i`."""

    places: tuple[Integers, ...]


@dataclass(frozen=True)
class Node:
    """inputs: numbers of earlier nodes; none for the input. what: None for the input, a string for a sum.

    form: what the value is computed in where the network is run; a `Take` alone may change it.
    """

    inputs: tuple[int, ...]
    size: int
    what: Linear | Take | Concat | Activation | str | None
    form: Format


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

    def transposed(self, row: Vector) -> tuple[dict[int, Vector], float]:
        """The rows `A_s* row` of the sources, in float64, and a lower bound of `row . b`, for these float64 rows.

        Rows and bound together are off by at most `gamma(backwards) |row| . size` on the sources' boxes, and where
        entries of rows underflow by `backwards` times the smallest normal number, times the sum of sizes of all nodes.
        """
        rows, constant = {self.pre: row}, 0.0
        for number, node in reversed([*self.nodes.items()]):
            row = rows.pop(number, np.zeros(node.size))
            if isinstance(node.what, Linear):
                constant += least_product(row, node.what.offset)
                parts = [node.what.matrix.T @ row]
            elif isinstance(node.what, Take):
                parts = [node.what.transposed(row)]
            elif isinstance(node.what, Concat):
                parts = [row[places] for places in node.what.places]
            else:
                parts = [row] * len(node.inputs)
            for i, part in zip(node.inputs, parts, strict=True):
                rows[i] = rows[i] + part if i in rows else part
        return rows, constant


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
        form = _form(len(nodes), fields, named=file["format"] > 1)
        nodes.append(_node(len(nodes), fields, form, nodes, arrays))
    most = FREE + FACTOR * arrays.entries
    valid(sum(len(n.inputs) for n in nodes) <= MOST_INPUTS, f"graph.json: nodes: more than {MOST_INPUTS} inputs")
    valid(sum(map(_work, nodes)) <= most, f"graph.json: nodes: values of more than {most} numbers")
    cuts = _integers(file.get("cuts"), len(nodes), "cuts")
    needed = {0, len(nodes) - 1} | {k for k, n in enumerate(nodes) if isinstance(n.what, Activation)}
    valid(cuts == sorted(set(cuts)) and needed <= set(cuts), "graph.json: cuts: not in order, or one is missing")
    classes, last = file.get("classes"), nodes[-1].size
    valid(type(classes) is int and last in (classes, classes + 1) and last > 1, "graph.json: classes: not the logits")
    blocks = dict[int, Block]()
    for k in cuts[1:]:
        blocks[k] = _block(nodes, set(cuts), k, most)
        most -= sum(map(_work, blocks[k].nodes.values()))
    return Graph(tuple(nodes), blocks, int(classes or 0))


def _work(node: Node) -> int:
    """How many numbers a node adds up, those of a matrix aside."""
    return node.size * max(len(node.inputs), 1)


def _integers(found: object, limit: int, what: str) -> list[int]:
    right = isinstance(found, list) and all(type(i) is int and 0 <= i < limit for i in found)
    valid(right, f"graph.json: {what}: no list of numbers of earlier nodes")
    return list(found) if isinstance(found, list) else []


def _form(number: int, fields: Any, *, named: bool) -> Format:
    """The number format of a node's value; named: whether it must be said."""
    valid(isinstance(fields, dict), f"graph.json: node {number}: not an object")
    name = fields.get("type") if named else "float32"
    known = isinstance(name, str) and name in FORMATS and (named or "type" not in fields)
    valid(known, f"graph.json: node {number}: type: neither float32 nor float64")
    return FORMATS[str(name)]


def _node(number: int, fields: Mapping[str, Any], form: Format, nodes: list[Node], arrays: Arrays) -> Node:
    """Node `number`, whose inputs must come before it."""
    here = f"node {number}"
    kind = fields.get("kind")
    valid((kind == "input") == (number == 0), f"graph.json: {here}: the input, and it alone, is node 0")
    many = kind in ("add", "concat")
    found = [] if kind == "input" else fields.get("inputs") if many else [fields.get("input")]
    inputs = tuple(_integers(found, number, f"{here}: input"))
    sizes = [nodes[i].size for i in inputs]
    valid(sizes or kind == "input", f"graph.json: {here}: no inputs")
    size = fields.get("size", sizes[0] if sizes and kind not in ("linear", "take", "concat") else None)
    valid(type(size) is int and 0 < size <= LARGEST_SIZE, f"graph.json: {here}: size: {str(size)[:20]}")
    if kind == "input":
        return Node((), size, None, form)
    if kind == "take":
        places = arrays.integers(f"{number}.places", size, sizes[0], least=-1)
        return Node(inputs, size, _take(places, sizes[0]), form)
    valid(all(nodes[i].form is form for i in inputs), f"graph.json: {here}: an input of another type")
    if kind == "linear":
        exact = fields.get("exact", False)
        valid(type(exact) is bool, f"graph.json: {here}: exact: {str(exact)[:20]}")
        return Node(inputs, size, _linear(number, size, sizes[0], arrays, exact=exact), form)
    if kind == "concat":
        parts = tuple(arrays.integers(f"{number}.places.{i}", n, size) for i, n in enumerate(sizes))
        valid(_permutation(np.concatenate(parts), size), f"model.npz: {here}: places are no permutation")
        return Node(inputs, size, Concat(parts), form)
    valid(set(sizes) == {size}, f"graph.json: {here}: inputs of another size")
    if kind == "add":
        return Node(inputs, size, "add", form)
    return Node(inputs, size, _activation(number, str(kind), size, arrays), form)


def _activation(number: int, kind: str, size: int, arrays: Arrays) -> Activation:
    here = f"node {number}"
    if kind == "leaky":
        return Leaky(arrays.vector(f"{number}.below", size))
    valid(kind in ("clamp", "maxmin"), f"graph.json: {here}: unknown kind {kind[:20]!r}")
    if kind == "clamp":
        low, high = (arrays.vector(f"{number}.{n}", size, infinite=True) for n in ("low", "high"))
        finite = (low < np.inf) & (high > -np.inf)
        valid(np.all((low <= high) & finite), f"model.npz: {here}: low > high, or a value is infinite")
        return Clamp(low, high)
    half = size // 2
    first, second = (arrays.integers(f"{number}.{n}", half, size) for n in ("first", "second"))
    valid(_permutation(np.concatenate((first, second)), size), f"model.npz: {here}: pairs are no permutation")
    low, high = (arrays.vector(f"{number}.{n}", half, infinite=True) for n in ("low", "high"))
    valid(np.all((low < np.inf) & (high > -np.inf)), f"model.npz: {here}: a value is infinite")
    return MaxMin(first, second, low, high)


def _permutation(places: Integers, size: int) -> bool:
    return places.size == size and bool(np.all(np.bincount(places, minlength=size) == 1))


def _take(places: Integers, inputs: int) -> Take:
    return Take(places, inputs, int(np.bincount(places[places >= 0], minlength=1).max()))


def _linear(number: int, size: int, inputs: int, arrays: Arrays, *, exact: bool) -> Linear:
    """A node's matrix, whose rows and columns are checked before scipy sees them."""
    here = f"model.npz: node {number}"
    data = arrays.vector(f"{number}.data")
    indices = arrays.integers(f"{number}.indices", data.size, inputs)
    pointers = arrays.integers(f"{number}.indptr", size + 1, data.size + 1)
    ordered = pointers[0] == 0 and pointers[-1] == data.size and np.all(np.diff(pointers) >= 0)
    valid(ordered, f"{here}: indptr is not in order")
    matrix = sparse.csr_array((data, indices, pointers), shape=(size, inputs))
    matrix.sort_indices()
    twice = (np.diff(matrix.indices) == 0) & (np.diff(np.repeat(np.arange(size), np.diff(pointers))) == 0)
    valid(not twice.any(), f"{here}: an entry is there twice")
    offset, magnitude = arrays.vector(f"{number}.offset", size), arrays.positive(f"{number}.magnitude", size)
    valid(np.all(magnitude >= np.abs(offset)), f"{here}: magnitude is smaller than the offset")
    plain = np.all(np.abs(data) == 1) and np.array_equal(magnitude, np.abs(offset))
    valid(not exact or bool(plain), f"{here}: exact, but an entry is not 1 or -1, or the offset is computed")
    columns = np.bincount(indices, minlength=inputs)
    return Linear(matrix, abs(matrix), offset, magnitude, int(np.diff(pointers).max()), int(columns.max()), exact)


def _block(nodes: list[Node], cuts: set[int], cut: int, most: int) -> Block:
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
    work = sum(map(_work, body.values()))
    valid(work <= most, "graph.json: cuts: blocks share too many nodes")
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


def floored(sizes: Matrix) -> Matrix:
    """The matrix with every stored entry at least `LEAST`."""
    return with_data(sizes, np.maximum(sizes.data, LEAST))


def with_data(matrix: Matrix, data: Vector) -> Matrix:
    """Other entries in the same places. The places are copied: scipy may sort those of a matrix in place."""
    return sparse.csr_array((data, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)


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
