"""Proved norms of unmasked terms: the ceiling of every masked one."""

from __future__ import annotations

import math

import torch

from llcert.ir import LinearOp, Node
from llcert.program import Term
from llcert.rounding import DOUBLE
from llcert.spectral import Masked, Side, Solver


def unmasked_bound(term: Term, solver: Solver | None = None) -> float:
    """The lesser of two proved UPPER bounds of the term's norm: the solver's and that of its operators.

    The term is in float64. solver: a proof of norms, which may refuse; anything but an UPPER bound is ignored.
    Infinite where nothing is known, as for NaN.
    """
    return min(_solved(term, solver), operator_bound(term))


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
    place = next((t.device for n in term.nodes for t in n.op.tensors().values()), torch.device("cpu"))
    rows, columns = (torch.ones(1, *s, dtype=torch.float64, device=place) for s in (term.output.shape, term.columns))
    norm = solver(Masked(term, rows, columns), columns)
    proved = norm.side is Side.UPPER and bool(norm.converged.all()) and float(norm.value) < math.inf
    return float(norm.value) if proved else math.inf
