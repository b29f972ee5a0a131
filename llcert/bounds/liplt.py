"""LipLT: Lipschitz constants by loop transformation, often far below the product of norms (docs/method.md, section 6).

An activation whose slopes lie between alpha and beta is a linear map C with the slopes `(alpha + beta) / 2` and a
remainder, `phi(z) - phi(z') = C (z - z') + psi`, `|psi| <= (beta - alpha) / 2 |z - z'|` entry by entry. So a value
depends on the image through one *composed map*, in which every activation is its C, and on every remainder through
another. The norms of the composed maps, each times how far its input can move, add up to a Lipschitz constant. The
global bound (`llcert.bounds.global_lipschitz`) takes it where it is less than the product.

Fazlyab, Entesari, Roy, Chellappa, "Certified Robustness via Dynamic Margin Maximization and Improved Lipschitz
Regularization", NeurIPS 2023, Theorem 1; here for any graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from llcert.bounds.forward.row_weights import global_slopes
from llcert.ir import Input, LoopTransform, Node, apply, topological
from llcert.numerics.tensors import flat, length
from llcert.ops import Add
from llcert.ops.affine import slopes_between
from llcert.program import Block, Program, Term, reached

Number = TypeVar("Number", float, Tensor)


def loop_transforms(block: Block, like: Tensor) -> tuple[LoopTransform, ...]:
    """A block's activation as loop transformations, one after the other; none where it has no such form, or there is no
    activation.

    What the operator says of itself, else that of an entrywise function with slopes between its least and its steepest.
    All but the last are nonexpansive. like: has the format and the place of coefficients.
    """
    phi, shape = block.activation, block.pre.shape
    if phi is None:
        return ()
    own, least = phi.loop_transforms(shape, like), phi.least_slope(shape)
    if own is not None or least is None:
        return own or ()
    return (slopes_between(least.to(like), global_slopes(block).to(like)),)


@dataclass(frozen=True)
class Origin:
    """Where a composed map begins: at the image, at the remainder of an activation, or at the output of an activation
    that has no loop transformation.

    node: an input node of its own, which stands for what enters there. moved: the node of the block whose value bounds
    how far that moves, None for the image: `||eta|| <= ||z - z'||` for a remainder. before: whether it is the value
    before the block's activation, else its output. even: whether all entries of a remainder have one factor.
    """

    node: Node
    moved: Node | None = None
    before: bool = True
    even: bool = True


def constant_at(origin: Origin, one: Number, before: Mapping[Node, Number], after: Mapping[Node, Number]) -> Number:
    """The Lipschitz constant, with respect to the image, of what enters at an origin.

    one: that of the image. before, after: those of blocks' values before and behind their activations, by their nodes.
    """
    if origin.moved is None:
        return one
    return before[origin.moved] if origin.before else after[origin.moved]


@dataclass(frozen=True)
class Composed:
    """Every composed map of a program.

    maps: for each block, by its node, the composed map from every origin that reaches it to its value before the
    activation. added: the origins at its own activation, each with the loop transformation whose remainder it is; None
    for an activation that has no such form, behind which no earlier origin counts. No two blocks share a node and no
    two origins either, so no two maps share a key.
    """

    maps: Mapping[Node, Mapping[Origin, Term]]
    added: Mapping[Node, tuple[tuple[LoopTransform | None, Origin], ...]]

    @staticmethod
    def of(program: Program) -> Composed | None:
        """Shares the parameters of the program. None where LipLT does not help."""
        if not helps(program):
            return None
        like = torch.zeros((), dtype=program.dtype, device=program.device)
        values = {program.input: program.input}
        reaching: dict[Node, tuple[Origin, ...]] = {program.input: (Origin(program.input),)}
        maps: dict[Node, dict[Origin, Term]] = {}
        added: dict[Node, tuple[tuple[LoopTransform | None, Origin], ...]] = {}
        for block in program.blocks:
            value = _copied(block, values)
            origins = tuple(dict.fromkeys(origin for s in block.sources for origin in reaching[s]))
            maps[block.node] = {origin: _term(origin.node, value, block.node) for origin in origins}
            added[block.node] = _origins(block, loop_transforms(block, like))
            for transform, origin in added[block.node]:
                if transform is None:
                    value, origins = origin.node, (origin,)
                else:
                    value = apply(Add(), apply(transform.linear, value), apply(transform.remainder, origin.node))
                    origins = (*origins, origin)
            values[block.node], reaching[block.node] = value, origins
        return Composed(maps, added)

    def pairs(
        self,
        program: Program,
        before: Mapping[Node, Tensor],
        after: Mapping[Node, Tensor],
        apart: Mapping[Origin, Tensor] | None = None,
    ) -> Tensor | None:
        """Lipschitz constants of the differences of logits, `[logits, logits]`; None where an activation gives these.

        before, after: as of `constant_at`; after: of the image, too. apart: the lengths of the differences of rows of
        each map to the logits, where they are known.
        """
        last = program.blocks[-1]
        if last.activation is not None:
            return None
        if apart is None:
            unit = torch.eye(*last.node.shape * 2, dtype=program.dtype, device=program.device)
            apart = {origin: distances(term.adjoint(unit)) for origin, term in self.maps[last.node].items()}
        one = after[program.input]
        return torch.stack([a * constant_at(origin, one, before, after) for origin, a in apart.items()]).sum(0)


def distances(rows: Tensor) -> Tensor:
    """The lengths of the differences of rows, `[rows, rows]`, with a gradient where they are zero."""
    every = flat(rows)
    return torch.stack([length(every - row) for row in every])


def helps(program: Program) -> bool:
    """Whether LipLT may be less than the product of norms: not where MaxMin alone has a loop transformation."""
    activations = ((block.activation, block.pre.shape) for block in program.blocks)
    return any(phi is not None and phi.least_slope(shape) is not None for phi, shape in activations)


def _origins(block: Block, transforms: Sequence[LoopTransform]) -> tuple[tuple[LoopTransform | None, Origin], ...]:
    """An origin for the remainder of every loop transformation; for an activation that has none, one at its output."""
    if transforms or block.activation is None:
        shape = block.pre.shape
        return tuple((t, Origin(apply(Input(shape, block.node.dtype)), block.node, even=_even(t))) for t in transforms)
    return ((None, Origin(apply(Input(block.node.shape, block.node.dtype)), block.node, before=False)),)


def _even(transform: LoopTransform) -> bool:
    """Whether the remainder has one factor for all entries, as that of a ReLU."""
    scale = transform.remainder.tensors().get("scale")
    return scale is not None and bool((scale == scale.flatten()[:1]).all())


def _copied(block: Block, values: Mapping[Node, Node]) -> Node:
    """The block's value before its activation, computed of other sources; values: these, by the block's own."""
    new = dict(values)
    for node in block.body:
        new[node] = replace(node, inputs=tuple(new[i] for i in node.inputs))
    return new[block.pre]


def _term(origin: Node, output: Node, owner: Node) -> Term:
    """The linear map from an origin's node to a value; owner: of its term."""
    return Term(origin, reached(origin, topological(output)), output, owner)
