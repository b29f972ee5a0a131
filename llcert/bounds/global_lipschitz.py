"""The global Lipschitz bound: unmasked norms, the largest slope of each activation, multiplied through the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.bounds.forward.branches import branch_norms
from llcert.bounds.liplt import Composed
from llcert.ir import Node
from llcert.layout import flat
from llcert.program import Block, Program, Term
from llcert.region import length
from llcert.spectral import Lanczos, Masked, Side, Solver, random_start


@dataclass(frozen=True)
class GlobalBound:
    """Unmasked norms of every term and the Lipschitz constants they multiply to (eq. 2, for any graph).

    norms: scalars, the activation's largest slope included. vectors: right singular vectors `[1, *columns]`. Both are
    keyed by term, and a term names its block, so that two activations of one value have two norms. lipschitz: Lipschitz
    constant of every block's output with respect to the image, scalars, keyed by the block's own node: the least of the
    product and, where it was asked for, LipLT. pairs: Lipschitz constants of the differences of logits by LipLT,
    `[logits, logits]`; None where it was not asked for, or the network ends in an activation. looped: whether it was
    asked for. side: how the norms err.
    """

    norms: dict[Term, Tensor]
    vectors: dict[Term, Tensor]
    lipschitz: dict[Node, Tensor]
    output: Node
    side: Side
    pairs: Tensor | None = None
    looped: bool = False

    @property
    def logit_lipschitz(self) -> Tensor:
        """Lipschitz constant of the logits, a scalar."""
        return self.lipschitz[self.output]


def global_bound(
    program: Program,
    solver: Solver | None = None,
    seed: int = 0,
    *,
    starts: Mapping[Term, Tensor] | None = None,
    joint: bool = True,
    crude: bool = True,
    composed: Composed | None = None,
    known: Mapping[Term, tuple[Tensor, Tensor]] | None = None,
) -> GlobalBound:
    """The global Lipschitz bound, an ESTIMATE; where an iteration does not converge, a crude upper bound answers.

    starts: vectors `[1, *columns]` to begin with, such as those of an earlier bound; random where there are none.
    joint: whether branches that add up get one more norm of them all, which may say less than their sum.
    composed: the maps of LipLT, if it is asked for. known: norms of some of them, scalars, and their vectors.
    crude: False lets what the solver found stand; to look whether it converged would be to wait for a GPU.
    """
    solver = solver or Lanczos(tolerance=1e-5, vectors=True)
    norms: dict[Term, Tensor] = {}
    vectors: dict[Term, Tensor] = {}
    lipschitz: dict[Node, Tensor] = {program.input: torch.ones((), dtype=program.dtype, device=program.device)}
    before: dict[Node, Tensor] = {}

    def whole(term: Term, seed: int) -> Tensor:
        if known is not None and term in known:
            norms[term], vectors[term] = known[term]
            return norms[term]
        rows, columns = (lipschitz[program.input].expand(1, *s) for s in (term.output.shape, term.columns))
        given = (starts or {}).get(term)
        start = random_start((1, *term.columns), columns, seed) if given is None else given
        norms[term], vectors[term] = _unmasked(term, rows, columns, solver, start, crude)
        return norms[term]

    for number, block in enumerate(program.blocks):
        rows, columns = _everything(program, block)
        for term, every in zip(block.terms, columns, strict=True):
            given = (starts or {}).get(term)
            start = random_start((1, *term.columns), every, seed + number) if given is None else given
            norms[term], vectors[term] = _unmasked(term, rows, every, solver, start, crude)
        sizes, radii = [norms[t][None] for t in block.terms], [lipschitz[t.source][None] for t in block.terms]
        branches = branch_norms(block, rows, columns, sizes, radii, solver if joint else None, seed + number)
        lipschitz[block.node] = branches.movement(radii)[0]
        if composed is not None:
            parts = [
                whole(t, seed + number) * leaf.gain(lipschitz[program.input], before, lipschitz)
                for leaf, t in composed.maps[block.node].items()
            ]
            product = lipschitz[block.node]
            if not bool((rows == 1).all()):
                product = _without_slopes(block, columns, radii, solver, seed + number, crude)
            before[block.node] = torch.minimum(torch.stack(parts).sum(), product)
            lipschitz[block.node] = torch.minimum(lipschitz[block.node], before[block.node] * rows.amax())
    pairs = None if composed is None else composed.pairs(program, before, lipschitz)
    return GlobalBound(norms, vectors, lipschitz, program.output, Side.ESTIMATE, pairs, composed is not None)


def with_pairs(bound: GlobalBound, program: Program, seed: int = 0) -> GlobalBound:
    """An estimated bound with the constants of pairs by LipLT, good to a thousandth; as it is where there are none."""
    composed = Composed.of(program)
    if composed is None:
        return bound
    looped = global_bound(program, Lanczos(tolerance=1e-3, vectors=True), seed, starts=bound.vectors, composed=composed)
    return replace(bound, pairs=looped.pairs)


def _without_slopes(
    block: Block, columns: list[Tensor], radii: list[Tensor], solver: Solver, seed: int, crude: bool
) -> Tensor:
    """The product for the block's value before its activation, whose slopes are not one, a scalar."""
    one = columns[0].new_ones(1, *block.pre.shape)
    norms = [
        _unmasked(t, one, c, solver, random_start((1, *t.columns), c, seed), crude)[0]
        for t, c in zip(block.terms, columns, strict=True)
    ]
    moved = torch.cat([norm * radius for norm, radius in zip(norms, radii, strict=True)])
    return length(moved, 0) if block.disjoint else moved.sum()


def _everything(program: Program, block: Block) -> tuple[Tensor, list[Tensor]]:
    """The row factors of a block's unmasked map, its activation's largest slopes, and the columns of each term."""
    one = torch.ones((), dtype=program.dtype, device=program.device)
    rows = one.expand(1, *block.pre.shape)
    if block.activation is not None:
        rows = rows * block.activation.global_slope(block.pre.shape).to(rows)
    return rows, [one.expand(1, *t.columns) for t in block.terms]


def _unmasked(
    term: Term, rows: Tensor, columns: Tensor, solver: Solver, start: Tensor, crude: bool
) -> tuple[Tensor, Tensor]:
    if term.moves:
        return (rows * term.magnitude(columns)).max(), start
    norm = solver(Masked(term, rows, columns), start)
    value = _crude(term, rows, columns) if crude and not bool(norm.converged.all()) else norm.value
    return value[0], start if norm.vector is None else norm.vector


def _crude(term: Term, rows: Tensor, columns: Tensor) -> Tensor:
    """Upper bound of a norm that needs no iteration: the root of the largest row sum times the largest column sum."""
    row_sums = flat(rows * term.magnitude(columns)).amax(1)
    column_sums = flat(term.magnitude_adjoint(rows)).amax(1)
    return row_sums.sqrt() * column_sums.sqrt()
