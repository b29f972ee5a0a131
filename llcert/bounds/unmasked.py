"""Proved norms of unmasked terms, the ceiling of every masked one, and what they multiply to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.roundoff import distance
from llcert.bounds.forward.slopes import steepest
from llcert.bounds.global_lipschitz import GlobalBound
from llcert.bounds.liplt import Composed, Leaf, Step, distances
from llcert.errors import UnsupportedModel
from llcert.ir import Input, LinearOp, Node, topological
from llcert.layout import flat
from llcert.program import Block, Program, Term
from llcert.rounding import DOUBLE
from llcert.spectral import Lanczos, Masked, Norm, Side, Solver, random_start

_CLOSE = 1e-4
"""How far, relatively, the bound of a term's operators may be above its norm for a factorisation to be spared."""


def unmasked_bound(term: Term, solver: Solver | None = None) -> float:
    """A proved UPPER bound of the term's norm: the solver's or that of its operators, whichever is less.

    The term is in float64. solver: a proof of norms, which may refuse; anything but an UPPER bound is ignored. It is
    not asked where the operators' bound is seen to be close. Infinite where nothing is known, as for NaN.
    """
    bound = operator_bound(term)
    if solver is None or bound <= (1 + _CLOSE) * _seen(term):
        return bound
    return min(_solved(term, solver), bound)


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


def proved_bound(program: Program, solver: Solver | None = None, composed: Composed | None = None) -> GlobalBound:
    """The global Lipschitz bound with an UPPER bound for every norm, rounding included. program: in float64.

    Branches that add up count as their sum. composed: the maps of LipLT, if it is asked for; those that the solver does
    not prove count as the product of their parts. Raises UnsupportedModel for operators that do not state what a proof
    needs.
    """
    check_stated(program)
    norms: dict[Term, Tensor] = {}
    lipschitz: dict[Node, float] = {program.input: 1.0}
    before: dict[Node, float] = {}
    products: dict[Node, dict[Leaf, float]] = {program.input: {Leaf(program.input): 1.0}}
    for block in program.blocks:
        slope = float(steepest(block).max())
        plain = {t: unmasked_bound(t, solver) for t in block.terms}
        sizes = {t: DOUBLE.bound(norm * slope) for t, norm in plain.items()}
        parts = [DOUBLE.bound(sizes[t] * lipschitz[t.source]) for t in block.terms]
        lipschitz[block.node] = _together(block, parts)
        if composed is not None:
            known = _products(block, plain, products)
            looped = 0.0
            for leaf, term in composed.maps[block.node].items():
                norm = known[leaf] if _direct(leaf, block, products) else min(known[leaf], _composed(term, solver))
                looped = DOUBLE.bound(looped + DOUBLE.bound(norm * leaf.gain(1.0, before, lipschitz)))
            parts = [DOUBLE.bound(plain[t] * lipschitz[t.source]) for t in block.terms]
            before[block.node] = min(looped, _together(block, parts))
            lipschitz[block.node] = min(lipschitz[block.node], DOUBLE.bound(before[block.node] * slope))
            products[block.node] = _behind(composed.added[block.node], known)
        norms |= {t: torch.tensor(v, dtype=torch.float64, device=program.device) for t, v in sizes.items()}
    scalars = {n: torch.tensor(v, dtype=torch.float64, device=program.device) for n, v in lipschitz.items()}
    pairs = None if composed is None else _proved_pairs(program, composed, before, lipschitz)
    return GlobalBound(norms, {}, scalars, program.output, Side.UPPER, pairs, composed is not None)


def _together(block: Block, parts: Sequence[float]) -> float:
    """How far a block's value moves where its sources move it by so much each, rounded up."""
    return DOUBLE.bound(math.hypot(*parts) if block.disjoint else sum(parts), len(parts) + 8)


def _products(
    block: Block, norms: Mapping[Term, float], products: Mapping[Node, Mapping[Leaf, float]]
) -> dict[Leaf, float]:
    """An UPPER bound of every composed map of a block: the norms of its parts, added up over its sources."""
    found: dict[Leaf, float] = {}
    for term in block.terms:
        for leaf, norm in products[term.source].items():
            found[leaf] = DOUBLE.bound(found.get(leaf, 0.0) + DOUBLE.bound(norms[term] * norm))
    return found


def _direct(leaf: Leaf, block: Block, products: Mapping[Node, Mapping[Leaf, float]]) -> bool:
    """Whether nothing but the block's own map lies between: its norm is known already."""
    sources = [s for s in block.sources if leaf in products[s]]
    return leaf.even and len(sources) == 1 and (leaf.moved is sources[0] or leaf.node is sources[0])


def _behind(added: Sequence[tuple[Step | None, Leaf]], products: Mapping[Leaf, float]) -> dict[Leaf, float]:
    """The products behind the steps of an activation."""
    found = dict(products)
    for step, leaf in added:
        if step is None:
            return {leaf: 1.0}
        linear, remainder = (op.norm_bound(leaf.node.shape) for op in (step.linear, step.remainder))
        found = {other: DOUBLE.bound(norm * linear) for other, norm in found.items()}
        found[leaf] = remainder
    return found


def _proved_pairs(
    program: Program, composed: Composed, before: Mapping[Node, float], lipschitz: Mapping[Node, float]
) -> Tensor | None:
    """`Composed.pairs`, rounding included."""
    last = program.blocks[-1]
    if last.activation is not None:
        return None
    unit = torch.eye(last.node.shape[0], dtype=torch.float64, device=program.device)
    total = torch.zeros_like(unit)
    with torch.no_grad():
        for leaf, term in composed.maps[last.node].items():
            count = term.roundings_back
            size = DOUBLE.above(term.magnitude_adjoint(unit), count)
            lost = DOUBLE.above(distance(size * DOUBLE.gamma(count)) + term.underflow_back, 2)
            apart = DOUBLE.above(distances(term.adjoint(unit)), math.prod(term.columns) + 4) + lost + lost[:, None]
            total = DOUBLE.above(total + apart * leaf.gain(1.0, before, lipschitz), 6)
    return total


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


@dataclass(frozen=True)
class MaskedOnly:
    """A solver that is asked of maps of which something is masked, for a whole one has its unmasked norm already.

    solver: no better at whole maps than what proved those. Of them it says nothing: infinite, not converged.
    """

    solver: Solver

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        """The norms of those that are cut, `[batch]`."""
        everything = isinstance(masked.map, Term)  # of maps side by side no unmasked norm is known
        factors = torch.cat([flat(masked.rows), flat(masked.columns)], 1)
        images = torch.nonzero(~((factors == 1).all(1) & everything))[:, 0]
        if len(images) == masked.batch:
            return self.solver(masked, start)
        norm = self.solver(masked.select(images), start[images])
        value = factors.new_full((masked.batch,), torch.inf)
        iterations = torch.zeros_like(value, dtype=torch.int64)
        converged = torch.zeros_like(value, dtype=torch.bool)
        value[images], iterations[images], converged[images] = norm.value.to(value), norm.iterations, norm.converged
        return Norm(value, norm.side, start, iterations, converged)


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


def _composed(term: Term, solver: Solver | None) -> float:
    """A proved norm of a composed map, written out along its shorter side; infinite where that is too much."""
    rows, columns = math.prod(term.output.shape), math.prod(term.columns)
    if min(rows, columns) > _SIDE or min(rows, columns) * term.products > _WORK:
        return math.inf
    return _solved(Transposed(term) if rows < columns else term, solver)


def _seen(term: Term) -> float:
    """An estimate of the term's norm, from below; NaN where it was not found."""
    masked = _whole(term)
    norm = Lanczos(tolerance=_CLOSE / 4)(masked, random_start(tuple(masked.columns.shape), masked.columns, 0))
    return float(norm.value) if bool(norm.converged) else math.nan


def _solved(term: Term | Transposed, solver: Solver | None) -> float:
    if solver is None:
        return math.inf
    masked = _whole(term)
    norm = solver(masked, masked.columns)
    proved = norm.side is Side.UPPER and bool(norm.converged.all()) and float(norm.value) < math.inf
    return float(norm.value) if proved else math.inf


def _whole(term: Term | Transposed) -> Masked:
    """The map with all its rows and columns."""
    own = term if isinstance(term, Term) else term.term
    shapes = (own.output.shape, own.columns)
    if own is not term:
        shapes = shapes[::-1]
    return Masked(term, *(torch.ones(1, *s, dtype=torch.float64, device=_place(own)) for s in shapes))


def _place(term: Term) -> torch.device:
    return next((t.device for n in term.nodes for t in n.op.tensors().values()), torch.device("cpu"))
