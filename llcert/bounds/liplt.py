"""LipLT: Lipschitz constants by loop transformation, often far below the product of norms.

An activation whose slopes lie between alpha and beta is a linear map with the slopes `(alpha + beta) / 2` and a
remainder, `phi(z) - phi(z') = C (z - z') + psi`, `|psi| <= (beta - alpha) / 2 |z - z'|` entry by entry. So a value
depends on the image through one linear map, in which every activation is its C, and on every remainder through one
more: the norms of these *composed maps*, each times how far what enters it can move, add up to a bound.

Fazlyab, Entesari, Roy, Chellappa, "Certified Robustness via Dynamic Margin Maximization and Improved Lipschitz
Regularization", NeurIPS 2023, Theorem 1; here for any graph (docs/method.md, section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from llcert.bounds.forward.row_weights import steepest
from llcert.ir import Input, LinearOp, Node, Shape, apply, number, topological
from llcert.numerics.tensors import flat, length
from llcert.ops import Add, Affine, MaxMin
from llcert.program import Block, Program, Term, reached

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Mixed(LinearOp):
    """`own a + other b` and `own b + other a` in place of every pair (a, b) of a MaxMin."""

    pairs: MaxMin
    own: float
    other: float
    roundings = 6

    def linear(self, x: Tensor) -> Tensor:
        a, b = self.pairs.split(x)
        return self.pairs.merge(self.own * a + self.other * b, self.own * b + self.other * a)

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return self.linear(y)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return Mixed(self.pairs, number(entrywise, self.own), number(entrywise, self.other))


@dataclass(frozen=True)
class Step:
    """`phi(z) - phi(z') = C (z - z') + F eta` for some eta with `||eta|| <= ||z - z'||`."""

    linear: LinearOp
    remainder: LinearOp


def steps_of(block: Block, like: Tensor) -> tuple[Step, ...]:
    """A block's activation as such steps, one after the other; none where it has no such form, or there is none.

    The steps in front of the last one are nonexpansive. like: has the format and the place of coefficients.
    """
    activation, shape = block.activation, block.pre.shape
    if isinstance(activation, MaxMin):
        sorting = Step(Mixed(activation, 0.5, 0.5), Mixed(activation, 0.5, -0.5))
        if activation.high is None and activation.low is None:
            return (sorting,)
        one = activation.split(like.new_ones(1, *shape))[0]
        free = activation.merge(*(one * (t is None) for t in (activation.high, activation.low)))[0]
        return sorting, _between(free, torch.ones_like(free))
    least = None if activation is None else activation.least_slope(shape)
    return () if least is None else (_between(least.to(like), steepest(block).to(like)),)


def _between(least: Tensor, most: Tensor) -> Step:
    """Of a function that acts entry by entry, with slopes in this range."""
    centre = (least + most) / 2
    half = torch.maximum(most - centre, centre - least)
    exact = ((half == 0) | (half == 0.5) | (half == 1)) & (centre + half == most) & (centre - half == least)
    return Step(Affine(centre), Affine(torch.where(exact, half, torch.nextafter(half, half + 1))))


@dataclass(frozen=True)
class Leaf:
    """Where something enters the composed maps: the image, a remainder, or the output of an activation without steps.

    node: an input of its own. moved: the value of which it moves at most as far: an activation's input (`before`), or
    the output; None: the image. even: whether all of its entries enter with one factor.
    """

    node: Node
    moved: Node | None = None
    before: bool = True
    even: bool = True


def gain(leaf: Leaf, one: Number, before: Mapping[Node, Number], after: Mapping[Node, Number]) -> Number:
    """How far what enters at a leaf moves at most where the image moves by one.

    before, after: Lipschitz constants of blocks' values before and behind their activations, by their nodes.
    """
    if leaf.moved is None:
        return one
    return before[leaf.moved] if leaf.before else after[leaf.moved]


@dataclass(frozen=True)
class Composed:
    """Every composed map of a program.

    maps: for each block, by its node, the map from every leaf that reaches it to its value before the activation.
    added: the leaves of its own activation, each behind its step; a leaf without one cuts the others off. A block's
    node is its own, and so is a leaf, so no two maps share a key.
    """

    maps: Mapping[Node, Mapping[Leaf, Term]]
    added: Mapping[Node, tuple[tuple[Step | None, Leaf], ...]]

    @staticmethod
    def of(program: Program) -> Composed | None:
        """Shares the parameters of the program. None where no activation but MaxMin has steps: the product is less."""
        if not any(_helps(block) for block in program.blocks):
            return None
        like = torch.zeros((), dtype=program.dtype, device=program.device)
        values = {program.input: program.input}
        reaching: dict[Node, tuple[Leaf, ...]] = {program.input: (Leaf(program.input),)}
        maps: dict[Node, dict[Leaf, Term]] = {}
        added: dict[Node, tuple[tuple[Step | None, Leaf], ...]] = {}
        for block in program.blocks:
            value = _copied(block, values)
            leaves = tuple(dict.fromkeys(leaf for s in block.sources for leaf in reaching[s]))
            maps[block.node] = {leaf: _term(leaf.node, value, block.node) for leaf in leaves}
            added[block.node] = _leaves(block, steps_of(block, like))
            for step, leaf in added[block.node]:
                if step is None:
                    value, leaves = leaf.node, (leaf,)
                else:
                    value = apply(Add(), apply(step.linear, value), apply(step.remainder, leaf.node))
                    leaves = (*leaves, leaf)
            values[block.node], reaching[block.node] = value, leaves
        return Composed(maps, added)

    def pairs(
        self,
        program: Program,
        before: Mapping[Node, Tensor],
        after: Mapping[Node, Tensor],
        apart: Mapping[Leaf, Tensor] | None = None,
    ) -> Tensor | None:
        """Lipschitz constants of the differences of logits, `[logits, logits]`; None behind an activation.

        before, after: of the blocks, before and behind their activations, by their nodes, and of the image. apart: the
        lengths of the differences of rows of each map to the logits, where they are known.
        """
        last = program.blocks[-1]
        if last.activation is not None:
            return None
        if apart is None:
            unit = torch.eye(*last.node.shape * 2, dtype=program.dtype, device=program.device)
            apart = {leaf: distances(term.adjoint(unit)) for leaf, term in self.maps[last.node].items()}
        one = after[program.input]
        return torch.stack([a * gain(leaf, one, before, after) for leaf, a in apart.items()]).sum(0)


def distances(rows: Tensor) -> Tensor:
    """The lengths of the differences of rows, `[rows, rows]`, with a gradient where they are zero."""
    every = flat(rows)
    return torch.stack([length(every - row) for row in every])


def _helps(block: Block) -> bool:
    """Whether LipLT may be less than the product because of a block's activation."""
    phi = block.activation
    return phi is not None and phi.least_slope(block.pre.shape) is not None


def _leaves(block: Block, steps: Sequence[Step]) -> tuple[tuple[Step | None, Leaf], ...]:
    """A leaf for every step; for an activation that has none, one in place of its output."""
    if steps or block.activation is None:
        shape = block.pre.shape
        return tuple((s, Leaf(apply(Input(shape, block.node.dtype)), block.node, even=_even(s))) for s in steps)
    return ((None, Leaf(apply(Input(block.node.shape, block.node.dtype)), block.node, before=False)),)


def _even(step: Step) -> bool:
    scale = step.remainder.tensors().get("scale")
    return scale is not None and bool((scale == scale.flatten()[:1]).all())


def _copied(block: Block, values: Mapping[Node, Node]) -> Node:
    """The block's value before its activation, of other sources."""
    new = dict(values)
    for node in block.body:
        new[node] = replace(node, inputs=tuple(new[i] for i in node.inputs))
    return new[block.pre]


def _term(leaf: Node, output: Node, owner: Node) -> Term:
    """The linear map from a leaf to a value."""
    return Term(leaf, reached(leaf, topological(output)), output, owner)
