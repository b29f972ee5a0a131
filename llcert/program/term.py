"""One linear map of a block, from one of its sources, as its nodes compute it: products with it, its adjoint and its
absolute matrix, and bounds of their rounding.

Norms, boxes and backward passes are made of these (docs/method.md, sections 2, 7.2 and 12).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.ir import (
    Join,
    LinearOp,
    Node,
    Shape,
    nonzero,
    stated_roundings,
)
from llcert.numerics.rounding import DOUBLE

Entrywise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Term:
    """The linear part of a block as seen from one of its sources: `A_s` in `z = sum over s of A_s h_s + b`.

    source: the value it starts from. nodes: the linear nodes between source and output that depend on the source,
    in order; empty if the block passes its source on. output: the node it ends at. owner: the node of its block, by
    which no two terms of a program are equal: two activations of one value are two blocks with the same source, nodes
    and output, but norms and start vectors that are stored by term contain the slopes of the block's activation.
    """

    source: Node
    nodes: tuple[Node, ...]
    output: Node
    owner: Node

    @property
    def columns(self) -> Shape:
        return self.source.shape

    @property
    def is_scaled_permutation(self) -> bool:
        """Whether every row and column of A_s has at most one nonzero entry, so that its norm is the largest one."""
        return all(isinstance(n.op, LinearOp) and n.op.is_scaled_permutation for n in self.nodes)

    def apply(self, x: Tensor) -> Tensor:
        """`A_s x`, `[batch, *output shape]`; x: `[batch, *source shape]`."""
        return self._forward(x)

    def magnitude(self, x: Tensor) -> Tensor:
        """`|A_k| ... |A_1| x`, entrywise at least `|A_s| x` for x >= 0; equal where the chain adds up only once."""
        return self._forward(x, torch.abs)

    def reached(self, entries: Tensor) -> Tensor:
        """The outputs that depend on some of the marked entries, boolean `[batch, *output shape]`: a superset.

        entries: boolean `[batch, *source shape]`. Counts paths instead of multiplying weights, which may vanish.
        """
        return ~(self.paths(entries.to(torch.float64)) == 0)

    def paths(self, x: Tensor) -> Tensor:
        """`P x`, P the number of ways from each entry of the source to each output; x: `[batch, *source shape]`."""
        return self._forward(x, nonzero)

    def paths_back(self, y: Tensor) -> Tensor:
        """`P* y`, the adjoint of `paths`; y: `[batch, *output shape]`."""
        return self._backward(y, nonzero)

    @cached_property
    def roundings(self) -> int:
        """The n of `|fl(A x) - A x| <= gamma_n N |x|` in any order of summation; N is the matrix of `magnitude`.

        A row with k entries takes k sums, one of them with the offset, and what its operator states of a product.
        """
        return sum(node_roundings(n) for n in self.nodes)

    @cached_property
    def products(self) -> int:
        """The approximate number of products of `apply` for one image."""
        return sum(node_roundings(n) * math.prod(n.shape) for n in self.nodes if isinstance(n.op, LinearOp))

    @cached_property
    def roundings_back(self) -> int:
        """The same for the adjoint and `magnitude_adjoint`."""
        return sum(node_roundings_back(n) + len(n.inputs) for n in self.nodes)

    @cached_property
    @torch.no_grad()
    def underflow_back(self) -> float:
        """Upper bound of the norm of the error that underflow adds to `adjoint(y)`, for entries of at most 1.

        Every operation of a node may lose as much as the smallest normal number, and so may a coefficient that it
        computes, which is multiplied by an entry; the nodes in front of it enlarge the loss by their norms.
        """
        passed, largest = 1.0, 1.0
        for node in self.nodes:
            norm = node.op.norm_bound(node.inputs[0].shape) if isinstance(node.op, LinearOp) else len(node.inputs)
            passed = DOUBLE.above(passed * max(norm, 1.0))
            largest = max(largest, math.prod(node.shape), *(math.prod(i.shape) for i in node.inputs))
        return DOUBLE.above(4 * self.roundings_back * DOUBLE.tiny * largest * passed * passed)

    @cached_property
    @torch.no_grad()
    def underflow(self) -> float:
        """Upper bound of the error that underflow adds to an entry of `apply(x)` or `magnitude(x)` for `|x| <= 1`.

        Every operation may lose as much as the smallest normal number, and so may a coefficient that it computes, which
        is multiplied by an entry.
        """
        one = torch.ones(1, *self.source.shape, dtype=torch.float64)
        sizes, errors = {self.source: one}, {self.source: torch.zeros_like(one)}
        for node in self.nodes:
            largest = max(float(sizes[i].max()) for i in node.inputs if i in sizes and sizes[i].numel())
            lost = 2 * node_roundings(node) * DOUBLE.tiny * (1 + largest)
            errors[node] = self.value(node, errors, one, _wide_magnitude) + lost
            sizes[node] = self.value(node, sizes, one, _wide_magnitude)
        return 2 * float(errors[self.output].max())

    def adjoint(self, y: Tensor) -> Tensor:
        """`A_s* y`, `[batch, *source shape]`."""
        return self._backward(y)

    def magnitude_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint of `magnitude`."""
        return self._backward(y, torch.abs)

    def _forward(self, x: Tensor, entrywise: Entrywise | None = None) -> Tensor:
        values: dict[Node, Tensor] = {self.source: x}
        for node in self.nodes:
            values[node] = self.value(node, values, x, entrywise)
        return values[self.output]

    @staticmethod
    def value(node: Node, values: Mapping[Node, Tensor], like: Tensor, entrywise: Entrywise | None = None) -> Tensor:
        """The value of one node, without offsets; inputs without a value count as zero."""
        if isinstance(node.op, LinearOp):
            op = node.op.transformed(entrywise) if entrywise else node.op
            return op.linear(values[node.inputs[0]])
        return node.op(*(values[i] if i in values else like.new_zeros(like.shape[0], *i.shape) for i in node.inputs))

    def _backward(self, y: Tensor, entrywise: Entrywise | None = None) -> Tensor:
        pending: dict[Node, Tensor] = {self.output: y}
        for node in reversed(self.nodes):
            received = pending.pop(node)
            if isinstance(node.op, LinearOp):
                op = node.op.transformed(entrywise) if entrywise else node.op
                parts: Sequence[Tensor] = (op.adjoint(received, node.inputs[0].shape),)
            elif isinstance(node.op, Join):
                parts = node.op.adjoints(received, [i.shape for i in node.inputs])
            for i, part in zip(node.inputs, parts, strict=True):
                if i is self.source or i in self._members:
                    pending[i] = pending[i] + part if i in pending else part
        return pending[self.source]

    @cached_property
    def _members(self) -> frozenset[Node]:
        return frozenset(self.nodes)


def _wide_magnitude(a: Tensor) -> Tensor:
    return a.abs().to("cpu", torch.float64)


@dataclass(frozen=True)
class Magnitude:
    """The matrix |A| of a node, of the absolute values of its coefficients; of several inputs, of each one.

    norm: an upper bound of its norm. terms: the most entries of a row, one more for an offset. longest: the most
    entries of a row or a column.
    """

    norm: float
    terms: int
    longest: int


def magnitude_of(node: Node) -> Magnitude:
    """What is known of a node's |A|. A join takes every entry of each input into one output with coefficient one."""
    terms, column = (count(node) - stated_roundings(node.op) for count in (node_roundings, node_roundings_back))
    if not isinstance(node.op, LinearOp):
        return Magnitude(1.0, terms, 1)
    return Magnitude(node.op.magnitude_bound(node.inputs[0].shape), terms, max(terms, column))


def node_roundings(node: Node) -> int:
    """The largest number of roundings in an entry of the node's value, counted from its inputs."""
    if not isinstance(node.op, LinearOp):
        return len(node.inputs) + stated_roundings(node.op)
    one = torch.ones(1, *node.inputs[0].shape, dtype=torch.float64)
    return math.ceil(float(node.op.to("cpu", torch.float64).paths(one).max())) + stated_roundings(node.op) + 1


def node_roundings_back(node: Node) -> int:
    """The same for the adjoint."""
    if not isinstance(node.op, LinearOp):
        return len(node.inputs) + stated_roundings(node.op)
    shape = node.inputs[0].shape
    one = torch.ones(1, *node.shape, dtype=torch.float64)
    entries = node.op.to("cpu", torch.float64).transformed(nonzero).adjoint(one, shape)
    return math.ceil(float(entries.max())) + stated_roundings(node.op) + 1
