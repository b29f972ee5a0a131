"""The nodes of the network: what each computes, from graph.json and model.npz (docs/certificate.md, section 1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from llcert.checker.activations import Activation, Clamp, Leaky, MaxMin
from llcert.checker.files import Arrays, Integers, valid
from llcert.checker.numbers import FORMATS, Format, Vector, above

Matrix = Any  # scipy.sparse.csr_array, which has no types
LARGEST_SIZE = 2**24
LEAST = 2.0**-100
"""The least size of a value that is not exactly 0: twice it, times a unit of float32, still exceeds any underflow."""


@dataclass(frozen=True)
class Linear:
    """`A x + b`.

    matrix: A, CSR. absolute: |A|. offset: b. magnitude: the sizes that a deployed kernel adds up to make b, at least
    |b|. rows, columns: the largest number of entries of a row of A, and of a column. exact: whether a deployed kernel
    multiplies nothing, as all entries are 1 or -1.
    """

    matrix: Matrix
    absolute: Matrix
    offset: Vector
    magnitude: Vector
    rows: int
    columns: int
    exact: bool = False

    @cached_property
    def floored(self) -> Matrix:
        """|A|, with every stored entry raised to at least `LEAST`."""
        return floored(self.absolute)

    @cached_property
    def norm(self) -> float:
        """At least the norm of `floored`."""
        return schur(self.floored)

    @cached_property
    def terms(self) -> int:
        """The most terms of a row's sum: stored entries, and an offset that has a magnitude where all is exact."""
        counts = np.diff(self.matrix.indptr)
        return int((counts + (self.magnitude > 0)).max()) if self.exact else self.rows

    @cached_property
    def pattern(self) -> Matrix:
        """The matrix with 1 for every stored entry of A."""
        return with_data(self.matrix, np.ones_like(self.matrix.data))


@dataclass(frozen=True)
class Take:
    """`y_i = x[places_i]`, 0 where the place is -1.

    inputs: size of x. most: how often one entry of x is taken, at most.
    """

    places: Integers
    inputs: int
    most: int

    def __call__(self, x: Vector) -> Vector:
        return np.where(self.places >= 0, x[self.places], 0.0)

    @cached_property
    def matrix(self) -> Matrix:
        """The 0/1 matrix of this map."""
        (rows,) = np.nonzero(self.places >= 0)
        return sparse.csr_array((np.ones(rows.size), (rows, self.places[rows])), shape=(self.places.size, self.inputs))


@dataclass(frozen=True)
class Concat:
    """`y[places_i] = x_i`, for the inputs x_0, x_1, ...; all places together are a permutation."""

    places: tuple[Integers, ...]


@dataclass(frozen=True)
class Node:
    """A node of the graph.

    inputs: numbers of earlier nodes; none for the input of the network. what: what it computes; None for the input, the
    string "add" for a sum. form: the format in which its value is computed where the network is run, that of its inputs
    unless it is a `Take`.
    """

    inputs: tuple[int, ...]
    size: int
    what: Linear | Take | Concat | Activation | str | None
    form: Format

    @property
    def work(self) -> int:
        """The number of entries of its inputs or results that it moves or adds; a matrix is not counted."""
        return self.size * max(len(self.inputs), 1)


def read_node(fields: Any, nodes: Sequence[Node], arrays: Arrays, *, typed: bool) -> Node:
    """The node behind `nodes`, which alone it may read. Raises InvalidCertificate where it breaks section 1.2.

    fields: its entry in graph.json. arrays: of model.npz. typed: whether the entry must name a number format.
    """
    number = len(nodes)
    here, form = f"node {number}", _form(number, fields, typed=typed)
    kind = fields.get("kind")
    valid((kind == "input") == (number == 0), f"graph.json: {here}: the input, and it alone, is node 0")
    many = kind in ("add", "concat")
    found = [] if kind == "input" else fields.get("inputs") if many else [fields.get("input")]
    inputs = tuple(integers(found, number, f"{here}: input"))
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


def _form(number: int, fields: Any, *, typed: bool) -> Format:
    """The number format of a node's value. typed: whether its entry must name it; else it must not, and is float32."""
    valid(isinstance(fields, dict), f"graph.json: node {number}: not an object")
    name = fields.get("type") if typed else "float32"
    known = isinstance(name, str) and name in FORMATS and (typed or "type" not in fields)
    valid(known, f"graph.json: node {number}: type: neither float32 nor float64")
    return FORMATS[str(name)]


def integers(found: object, limit: int, what: str) -> list[int]:
    """A list of integers in [0, limit), as graph.json has it. what: which list, for the complaint."""
    right = isinstance(found, list) and all(type(i) is int and 0 <= i < limit for i in found)
    valid(right, f"graph.json: {what}: no list of numbers of earlier nodes")
    return list(found) if isinstance(found, list) else []


def _activation(number: int, kind: str, size: int, arrays: Arrays) -> Activation:
    """An activation of one of the three kinds, with its arrays."""
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
    """Whether the places are 0, ..., size - 1 in some order."""
    return places.size == size and bool(np.all(np.bincount(places, minlength=size) == 1))


def _take(places: Integers, inputs: int) -> Take:
    """A `Take` from a value of `inputs` entries."""
    return Take(places, inputs, int(np.bincount(places[places >= 0], minlength=1).max()))


def _linear(number: int, size: int, inputs: int, arrays: Arrays, *, exact: bool) -> Linear:
    """`A x + b` of a node; all indices of A are checked before scipy gets them."""
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


def schur(sizes: Matrix) -> float:
    """An upper bound of the norm of a matrix of entries >= 0, and of every matrix it bounds entrywise.

    The root of largest row sum times largest column sum (Higham 2002, section 6.3).
    """
    if not sizes.nnz:
        return 0.0
    most = float(sizes.sum(axis=1).max()) * float(sizes.sum(axis=0).max())
    return float(above(math.sqrt(most), sum(sizes.shape)) + 2.0**-400)


def floored(sizes: Matrix) -> Matrix:
    """A matrix of sizes >= 0, with every stored entry raised to at least `LEAST`."""
    return with_data(sizes, np.maximum(sizes.data, LEAST))


def with_data(matrix: Matrix, data: Vector) -> Matrix:
    """A CSR matrix with other entries in the same places, which are copied because scipy may sort them in place."""
    return sparse.csr_array((data, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
