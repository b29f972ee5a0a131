"""Programs: a network cut into blocks, each a linear map of earlier values and at most one activation.

docs/method.md, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import (
    Activation,
    Input,
    Join,
    LinearOp,
    Network,
    Node,
    Shape,
    apply,
    last_reads,
    nonzero,
    place,
    stated,
    topological,
)
from llcert.ops import Clamp, Pad
from llcert.rounding import DOUBLE

__all__ = ["Block", "Program", "Term", "lower"]

Entrywise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Term:
    """The linear part of a block as seen from one of its sources: `A_s` in `z = sum over s of A_s h_s + b`.

    source: the value it starts from. nodes: the linear nodes between source and output that depend on the source,
    in order; empty if the block passes its source on. output: the node it ends at. owner: the node of its block.
    Two activations of one value are two blocks with the same source, nodes and output, but what is stored for a term
    (norms, start vectors) has the slope of its block's activation in it. The owner, of which every block has another,
    keeps them apart: no two terms of a program are equal.
    """

    source: Node
    nodes: tuple[Node, ...]
    output: Node
    owner: Node

    @property
    def columns(self) -> Shape:
        return self.source.shape

    @property
    def moves(self) -> bool:
        """Whether the matrix has at most one entry a row and a column."""
        return all(isinstance(n.op, LinearOp) and n.op.moves for n in self.nodes)

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
        return sum(_roundings(n) for n in self.nodes)

    @cached_property
    def products(self) -> int:
        """The approximate number of products of `apply` for one image."""
        return sum(_roundings(n) * math.prod(n.shape) for n in self.nodes if isinstance(n.op, LinearOp))

    @cached_property
    def roundings_back(self) -> int:
        """The same for the adjoint and `magnitude_adjoint`."""
        return sum(_roundings_back(n) + len(n.inputs) for n in self.nodes)

    @cached_property
    @torch.no_grad()
    def underflow_back(self) -> float:
        """Upper bound of the norm of the error that underflow adds to `adjoint(y)`, for entries of at most 1.

        Every operation of a node may lose as much as the smallest normal number, for itself and for a factor that is
        computed; what is lost passes the nodes in front of it.
        """
        passed, largest = 1.0, 1.0
        for node in self.nodes:
            norm = node.op.norm_bound(node.inputs[0].shape) if isinstance(node.op, LinearOp) else len(node.inputs)
            passed = DOUBLE.bound(passed * max(norm, 1.0))
            largest = max(largest, math.prod(node.shape), *(math.prod(i.shape) for i in node.inputs))
        return DOUBLE.bound(4 * self.roundings_back * DOUBLE.tiny * largest * passed * passed)

    @cached_property
    @torch.no_grad()
    def underflow(self) -> float:
        """Upper bound of the error that underflow adds to an entry of `apply(x)` or `magnitude(x)` for `|x| <= 1`.

        Every operation may lose the smallest normal number, a factor that is computed itself as much of what it meets.
        """
        one = torch.ones(1, *self.source.shape, dtype=torch.float64)
        sizes, errors = {self.source: one}, {self.source: torch.zeros_like(one)}
        for node in self.nodes:
            largest = max(float(sizes[i].max()) for i in node.inputs if i in sizes and sizes[i].numel())
            lost = 2 * _roundings(node) * DOUBLE.tiny * (1 + largest)
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


def _roundings(node: Node) -> int:
    """The largest number of roundings in an entry of the node's value, counted from its inputs."""
    if not isinstance(node.op, LinearOp):
        return len(node.inputs) + stated(node.op)
    one = torch.ones(1, *node.inputs[0].shape, dtype=torch.float64)
    return math.ceil(float(node.op.to("cpu", torch.float64).paths(one).max())) + stated(node.op) + 1


def _roundings_back(node: Node) -> int:
    """The same for the adjoint."""
    if not isinstance(node.op, LinearOp):
        return len(node.inputs) + stated(node.op)
    shape = node.inputs[0].shape
    one = torch.ones(1, *node.shape, dtype=torch.float64)
    entries = node.op.to("cpu", torch.float64).transformed(nonzero).adjoint(one, shape)
    return math.ceil(float(entries.max())) + stated(node.op) + 1


@dataclass(frozen=True)
class Block:
    """`h = phi(sum over sources s of A_s h_s + b)`, phi the identity where `activation` is None.

    node: the network node that holds h. pre: the node that holds the value before the activation.
    body: the linear nodes from all sources to `pre`. terms: one for each source. disjoint: whether the terms fill
    different rows (a concatenation), so that their radii combine as the root of the sum of squares.
    """

    node: Node
    pre: Node
    body: tuple[Node, ...]
    terms: tuple[Term, ...]
    activation: Activation | None
    disjoint: bool

    @property
    def sources(self) -> tuple[Node, ...]:
        return tuple(t.source for t in self.terms)

    @cached_property
    def roundings(self) -> int:
        """The largest number of roundings in an entry of the block's value or adjoint, counted from its sources."""
        return sum(max(_roundings(n), _roundings_back(n)) for n in self.body)

    @cached_property
    def underflow(self) -> float:
        """Upper bound of the error that underflow adds to an entry, for sources and sums of at most 1."""
        return DOUBLE.bound(sum(t.underflow for t in self.terms), len(self.terms))

    @property
    def entries(self) -> int:
        """The number of entries of all its values, for one image."""
        return sum(_entries(n) for n in (self.node, *self.body))

    @property
    def scratch(self) -> int:
        """The largest number of entries of the windows of one of its operators, for one image."""
        return max(n.op.scratch([i.shape for i in n.inputs], n.shape) for n in (self.node, *self.body))

    @property
    def label(self) -> str:
        """The operators of the block, for reports: `Conv + ReLU`."""
        names = [n.op.label for n in self.body if isinstance(n.op, Join) or not n.op.moves]  # type: ignore[attr-defined]
        return " + ".join([*names, *([self.activation.label] if self.activation else [])]) or "identity"

    def value(self, values: Mapping[Node, Tensor]) -> Tensor:
        """The block's value before the activation, offsets included; values: of the sources."""
        inner = dict(values)
        for node in self.body:
            inner[node] = node.op(*(inner[i] for i in node.inputs))
        return inner[self.pre]

    def output(self, values: Mapping[Node, Tensor]) -> Tensor:
        """The block's value; values: of the sources."""
        z = self.value(values)
        return z if self.activation is None else self.activation(z)


@dataclass(frozen=True)
class Program:
    """A network lowered to one device and floating-point type.

    input: the image node. blocks: in order of execution; the last one holds the logits and has no activation unless
    the network ends in one. classes: of the network; logits may have one more, a zero that stands for a final ReLU.
    The parameters are shared with the network wherever device and type allow.
    """

    input: Node
    blocks: tuple[Block, ...]
    classes: int
    device: torch.device
    dtype: torch.dtype

    @property
    def output(self) -> Node:
        return self.blocks[-1].node

    @cached_property
    @torch.no_grad()
    def dependent(self) -> Tensor:
        """Which logits may depend on the image at all, boolean `[logits]`: a superset, by paths of nonzero weights."""
        depends = {self.input: torch.ones(1, *self.input.shape, dtype=torch.bool, device=self.device)}
        for block in self.blocks:
            reached = torch.stack([t.reached(depends[t.source]) for t in block.terms]).any(0)
            # what an activation mixes is not looked into
            depends[block.node] = reached if block.activation is None else reached.any().expand(1, *block.node.shape)
        return depends[self.output][0]

    def entering(self, images: Tensor) -> Tensor:
        """The images as they reach the network: rounded to its format where they are wider."""
        return images.to(self.device, self.dtype)

    def logits(self, images: Tensor, narrow: torch.dtype | None = None) -> Tensor:
        """`[batch, logits]`; images: `[batch, *input shape]`, pixel units, of any precision.

        narrow: a format of two bytes for products in all blocks but the last (autocast): for training only.
        """
        values: dict[Node, Tensor] = {self.input: self.entering(images)}
        for block, read in self.in_turn():
            values[block.node] = self._value(block, values, narrow)
            for node in read:
                del values[node]
        return values[self.output]

    def _value(self, block: Block, values: Mapping[Node, Tensor], narrow: torch.dtype | None) -> Tensor:
        if narrow is None:
            return block.output(values)
        if block is self.blocks[-1]:
            return block.output({s: values[s].to(self.dtype) for s in block.sources})
        with torch.autocast(self.device.type, narrow):
            return block.output(values)

    def in_turn(self) -> Iterator[tuple[Block, list[Node]]]:
        """The blocks in order, each with the values that no later block reads."""
        return zip(self.blocks, last_reads(b.sources for b in self.blocks), strict=True)

    @cached_property
    def entries(self) -> int:
        """The number of entries of all values of one image."""
        return _entries(self.input) + sum(b.entries for b in self.blocks)

    @property
    def largest(self) -> Node:
        """The node with the largest value, the first such."""
        return max((n for b in self.blocks for n in (*b.body, b.node)), key=_entries)

    @cached_property
    def most(self) -> tuple[int, int, int]:
        """The peak of an evaluation that frees values after their last use, in entries of one image: those of the
        values that later blocks read, of the block's own values, and of the windows of an operator."""
        alive = {self.input: _entries(self.input)}
        found = []
        for block, read in self.in_turn():
            found.append((sum(alive.values()), block.entries, block.scratch))
            alive[block.node] = _entries(block.node)
            for node in read:
                del alive[node]
        return max(found, key=sum)


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
    """The nodes of a list, inputs before users, that depend on a node in front of it."""
    found = {source: None}
    for node in body:
        if any(i in found for i in node.inputs):
            found[node] = None
    return tuple(found)[1:]


def _entries(node: Node) -> int:
    return math.prod(node.shape)
