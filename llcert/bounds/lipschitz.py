"""The global Lipschitz bound: unmasked norms, the largest slope of each activation, multiplied through the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Node
from llcert.program import Block, Program, Term
from llcert.spectral import Masked, PowerIteration, Side, random_start


@dataclass(frozen=True)
class GlobalBound:
    """Unmasked norms of every term and the Lipschitz constants they multiply to (eq. 2, for any graph).

    norms: scalars, the activation's largest slope included. vectors: right singular vectors `[1, *columns]`.
    growth: Lipschitz constant of every block's output with respect to the image, scalars. side: how the norms err.
    """

    norms: dict[Term, Tensor]
    vectors: dict[Term, Tensor]
    growth: dict[Node, Tensor]
    output: Node
    side: Side

    @property
    def lipschitz(self) -> Tensor:
        """Lipschitz constant of the logits, a scalar."""
        return self.growth[self.output]


def global_bound(program: Program, solver: PowerIteration | None = None, seed: int = 0) -> GlobalBound:
    """The global Lipschitz bound, an ESTIMATE; where an iteration does not converge, a crude upper bound answers."""
    solver = solver or PowerIteration(tolerance=1e-4, cap=20000, compact=50)
    norms: dict[Term, Tensor] = {}
    vectors: dict[Term, Tensor] = {}
    growth: dict[Node, Tensor] = {program.input: torch.ones((), dtype=program.dtype, device=program.device)}
    for number, block in enumerate(program.blocks):
        for term in block.terms:
            norms[term], vectors[term] = _unmasked(program, block, term, solver, seed + number)
        growth[block.node] = combine(block, [norms[t] for t in block.terms], [growth[t.source] for t in block.terms])
    return GlobalBound(norms, vectors, growth, program.output, Side.ESTIMATE)


def combine(block: Block, norms: Sequence[Tensor], radii: Sequence[Tensor]) -> Tensor:
    """How far a block's output can move: the sum of norm times radius, root of squares if disjoint."""
    parts = torch.stack([n * r for n, r in zip(norms, radii, strict=True)])
    return torch.linalg.vector_norm(parts, dim=0) if block.disjoint else parts.sum(0)


def _unmasked(program: Program, block: Block, term: Term, solver: PowerIteration, seed: int) -> tuple[Tensor, Tensor]:
    like = torch.zeros((), dtype=program.dtype, device=program.device)
    shape = block.pre.shape
    rows = torch.ones(1, *shape, dtype=program.dtype, device=program.device)
    if block.activation is not None:
        rows = rows * block.activation.global_slope(shape).to(rows)
    columns = torch.ones(1, *term.columns, dtype=program.dtype, device=program.device)
    start = random_start((1, *term.columns), like, seed)
    if term.moves:
        return (rows * term.magnitude(columns)).max(), start
    norm = solver(Masked(term, rows, columns), start)
    value = torch.where(norm.converged, norm.value, _crude(term, rows, columns))
    return value[0], norm.vector


def _crude(term: Term, rows: Tensor, columns: Tensor) -> Tensor:
    """Upper bound of a norm that needs no iteration: the root of the largest row sum times the largest column sum."""
    row_sums = (rows * term.magnitude(columns)).flatten(1).amax(1)
    column_sums = term.magnitude_adjoint(rows).flatten(1).amax(1)
    return (row_sums * column_sums).sqrt()
