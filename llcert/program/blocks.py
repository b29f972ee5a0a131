"""Blocks, each a linear map of earlier values and at most one activation, and programs of them (docs/method.md,
section 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.ir import Activation, LinearOp, Node, last_reads
from llcert.numerics.rounding import DOUBLE
from llcert.program.term import Magnitude, Term, magnitude_of, node_roundings, node_roundings_back


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
        return sum(max(node_roundings(n), node_roundings_back(n)) for n in self.body)

    @cached_property
    @torch.no_grad()
    def magnitudes(self) -> Mapping[Node, Magnitude]:
        """What is known of the matrix of absolute values of every node of the body."""
        return {n: magnitude_of(n) for n in self.body}

    @cached_property
    def underflow(self) -> float:
        """Upper bound of the error that underflow adds to an entry, for sources and sums of at most 1."""
        return DOUBLE.above(sum(t.underflow for t in self.terms), len(self.terms))

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
        adding = (n.op for n in self.body if not (isinstance(n.op, LinearOp) and n.op.is_scaled_permutation))
        names = [op.label for op in adding]
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
    def multiplications(self) -> int:
        """The number of multiplications of one forward pass of one image."""
        nodes = {node for block in self.blocks for node in block.body}
        weights = ((n, n.op.tensors().get("weight")) for n in nodes)
        return sum(_entries(n) * (w.numel() // w.shape[0]) for n, w in weights if w is not None and w.ndim > 1)

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


def _entries(node: Node) -> int:
    return math.prod(node.shape)
