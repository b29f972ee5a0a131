"""Proved norms of unmasked terms, the ceiling of every masked one, and what they multiply to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llcert.bounds.lipschitz import GlobalBound
from llcert.errors import UnsupportedModel
from llcert.ir import Input, LinearOp, Node, topological
from llcert.program import Block, Program, Term
from llcert.rounding import DOUBLE
from llcert.spectral import Masked, Side, Solver


def unmasked_bound(term: Term, solver: Solver | None = None) -> float:
    """The lesser of two proved UPPER bounds of the term's norm: the solver's and that of its operators.

    The term is in float64. solver: a proof of norms, which may refuse; anything but an UPPER bound is ignored.
    Infinite where nothing is known, as for NaN.
    """
    return min(_solved(term, solver), operator_bound(term))


def check_stated(program: Program) -> None:
    """Nothing, where the authors of all operators state what a proof needs to know (docs/adding_an_operator.md).

    Raises UnsupportedModel naming the first operator that lacks a statement, and what it lacks.
    """
    for node in topological(program.output):
        if not isinstance(node.op, Input) and node.op.unstated:
            where = f"{node.op.label} {node.name or 'without a name'}"
            raise UnsupportedModel(
                f"{where}: nothing can be proved of an operator that does not state {', '.join(node.op.unstated)} "
                "(docs/adding_an_operator.md); --assurance estimate needs no such statement"
            )


def proved_bound(program: Program, solver: Solver | None = None) -> GlobalBound:
    """The global Lipschitz bound with an UPPER bound for every norm, rounding included. program: in float64.

    Branches that add up count as their sum. Raises UnsupportedModel for operators that do not state what a proof needs.
    """
    check_stated(program)
    norms: dict[Term, Tensor] = {}
    growth = {program.input: 1.0}
    for block in program.blocks:
        slope = float(steepest(block).max())
        sizes = {t: DOUBLE.bound(unmasked_bound(t, solver) * slope) for t in block.terms}
        parts = [DOUBLE.bound(sizes[t] * growth[t.source]) for t in block.terms]
        together = math.hypot(*parts) if block.disjoint else sum(parts)
        growth[block.node] = DOUBLE.bound(together, len(parts) + 8)
        norms |= {t: torch.tensor(v, dtype=torch.float64, device=program.device) for t, v in sizes.items()}
    scalars = {n: torch.tensor(v, dtype=torch.float64, device=program.device) for n, v in growth.items()}
    return GlobalBound(norms, {}, scalars, program.output, Side.UPPER)


def steepest(block: Block) -> Tensor:
    """The largest slopes of a block's activation anywhere, rounded up; broadcastable to `[batch, *pre shape]`."""
    if block.activation is None:
        return torch.ones((), dtype=torch.float64)
    return rounded_up(block, block.activation.global_slope(block.pre.shape).double())


def rounded_up(block: Block, slopes: Tensor) -> Tensor:
    """Computed slopes of a block's activation, not below the true ones, as its author states; 0 and 1 are exact."""
    if block.activation is None:
        return slopes
    roundings = block.activation.slope_roundings
    if roundings is None:
        raise UnsupportedModel(f"{block.activation.label}: its slope_roundings are not stated")
    return torch.where((slopes == 0) | (slopes == 1), slopes, DOUBLE.above(slopes, roundings))


def operator_bound(term: Term) -> float:
    """An UPPER bound of the term's norm by its operators' own: products along paths, sums where they meet.

    A join takes every value in with coefficient one, so it is a sum of maps of norm one.
    """
    bounds: dict[Node, float] = {term.source: 1.0}
    for node in term.nodes:
        if isinstance(node.op, LinearOp):
            (source,) = node.inputs
            bounds[node] = DOUBLE.bound(bounds[source] * node.op.norm_bound(source.shape))
        else:
            bounds[node] = DOUBLE.bound(sum(bounds.get(i, 0.0) for i in node.inputs), len(node.inputs))
    value = bounds[term.output]
    return value if value < math.inf else math.inf


def _solved(term: Term, solver: Solver | None) -> float:
    if solver is None:
        return math.inf
    shapes = (term.output.shape, term.columns)
    rows, columns = (torch.ones(1, *s, dtype=torch.float64, device=_place(term)) for s in shapes)
    norm = solver(Masked(term, rows, columns), columns)
    proved = norm.side is Side.UPPER and bool(norm.converged.all()) and float(norm.value) < math.inf
    return float(norm.value) if proved else math.inf


def _place(term: Term) -> torch.device:
    return next((t.device for n in term.nodes for t in n.op.tensors().values()), torch.device("cpu"))
