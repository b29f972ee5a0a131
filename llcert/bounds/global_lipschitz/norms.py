"""Proved norms of whole maps, which cap those of masked ones (docs/method.md, sections 7.3 and 7.4).

For proved global Lipschitz constants (`proof.py` beside this file).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp, Node
from llcert.numerics.rounding import DOUBLE
from llcert.program import Term
from llcert.spectral import Lanczos, Masked, Side, Solver, random_start

_CLOSE = 1e-4
"""How far, relatively, the operators' bound may be above the norm of a term without a factorisation being tried."""


def global_norm(term: Term, solver: Solver | None = None) -> float:
    """A proved UPPER bound of the term's norm: the solver's or that of its operators, whichever is less.

    The term is in float64. solver: proves norms, and may fail; anything but an UPPER bound is ignored. It is not asked
    where the operators' bound is close to an estimate of the norm. Infinite where nothing is known, as for NaN.
    """
    bound = operator_bound(term)
    if solver is None or bound <= (1 + _CLOSE) * _estimated(term):
        return bound
    return min(_proved(term, solver), bound)


def operator_bound(term: Term) -> float:
    """An UPPER bound of the term's norm from those of its operators: products along paths, sums where paths meet.

    A join has coefficients one, so that it is a sum of maps of norm one.
    """
    bounds: dict[Node, float] = {term.source: 1.0}
    for node in term.nodes:
        if isinstance(node.op, LinearOp):
            (source,) = node.inputs
            bounds[node] = DOUBLE.above(bounds[source] * node.op.norm_bound(source.shape))
        else:
            bounds[node] = DOUBLE.above(sum(bounds.get(i, 0.0) for i in node.inputs), len(node.inputs))
    value = bounds[term.output]
    return value if value < math.inf else math.inf


_WORK, _SIDE = 2e11, 3072
"""Products that writing out a composed map may take, about ten seconds, and the longest side of its Gram matrix."""


@dataclass(frozen=True)
class Transposed:
    """The adjoint of a term, which has the same norm, as a map."""

    term: Term

    @property
    def columns(self) -> tuple[int, ...]:
        return self.term.output.shape

    @property
    def roundings(self) -> int:
        return self.term.roundings_back

    @property
    def underflow(self) -> float:
        return self.term.underflow_back

    def apply(self, x: Tensor) -> Tensor:
        return self.term.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.term.apply(y)

    def magnitude(self, x: Tensor) -> Tensor:
        return self.term.magnitude_adjoint(x)

    def paths(self, x: Tensor) -> Tensor:
        return self.term.paths_back(x)


def composed_norm(term: Term, solver: Solver | None) -> float:
    """A proved norm of a composed map, written out along its shorter side; infinite where that is too much."""
    rows, columns = math.prod(term.output.shape), math.prod(term.columns)
    if min(rows, columns) > _SIDE or min(rows, columns) * term.products > _WORK:
        return math.inf
    return _proved(Transposed(term) if rows < columns else term, solver)


def _estimated(term: Term) -> float:
    """An estimate of the term's norm, from below; NaN where the iteration did not converge."""
    masked = _whole(term)
    norm = Lanczos(tolerance=_CLOSE / 4)(masked, random_start(tuple(masked.columns.shape), masked.columns, 0))
    return float(norm.value) if bool(norm.converged) else math.nan


def _proved(term: Term | Transposed, solver: Solver | None) -> float:
    """The UPPER bound that a solver proves; infinite where it proves none."""
    if solver is None:
        return math.inf
    masked = _whole(term)
    norm = solver(masked, masked.columns)
    proved = norm.side is Side.UPPER and bool(norm.converged.all()) and float(norm.value) < math.inf
    return float(norm.value) if proved else math.inf


def _whole(term: Term | Transposed) -> Masked:
    """The map without a mask."""
    own = term if isinstance(term, Term) else term.term
    shapes = (own.output.shape, own.columns)
    if own is not term:
        shapes = shapes[::-1]
    return Masked(term, *(torch.ones(1, *s, dtype=torch.float64, device=_device(own)) for s in shapes))


def _device(term: Term) -> torch.device:
    return next((t.device for n in term.nodes for t in n.op.tensors().values()), torch.device("cpu"))
