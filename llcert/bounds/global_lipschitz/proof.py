"""Proofs of global Lipschitz constants: proved norms, every rounding paid for (docs/method.md, sections 5, 6, 12).

For the prover. `estimate.py` beside this file estimates such constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds.forward.roundoff import distance
from llcert.bounds.forward.row_weights import global_slopes
from llcert.bounds.global_lipschitz.constants import Constants, GlobalBound, lipschitz_constants
from llcert.bounds.global_lipschitz.norms import composed_norm, global_norm
from llcert.bounds.liplt import Composed, Origin, constant_at, distances
from llcert.errors import UnsupportedModel
from llcert.ir import Input, LoopTransform, Node, topological
from llcert.numerics.products import direct_sums
from llcert.numerics.rounding import DOUBLE
from llcert.program import Block, Program, Term
from llcert.spectral import Side, Solver


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

    For terms that add up it has the sum of their norms. composed: the composed maps, where LipLT is wanted; the
    product of the norms of its parts stands in for one that the solver does not prove. Raises UnsupportedModel for
    operators that do not state what a proof needs.
    """
    check_stated(program)
    without_slopes = {t: global_norm(t, solver) for block in program.blocks for t in block.terms}
    slopes = {block.node: float(global_slopes(block).max()) for block in program.blocks}
    origins = {} if composed is None else _composed_norms(program, composed, without_slopes, solver)
    arithmetic = _ProvedConstants(without_slopes, slopes, origins)
    constants = lipschitz_constants(program, arithmetic, {} if composed is None else composed.maps)
    norms = {t: arithmetic.sloped(block, t) for block in program.blocks for t in block.terms}
    pairs = None if composed is None else _proved_pairs(program, composed, constants)
    return GlobalBound(
        {t: torch.tensor(v, dtype=torch.float64, device=program.device) for t, v in norms.items()},
        {},
        {n: torch.tensor(v, dtype=torch.float64, device=program.device) for n, v in constants.after.items()},
        program.output,
        Side.UPPER,
        pairs,
        composed is not None,
    )


@dataclass(frozen=True)
class ProvedLipLT:
    """The proved global bound of a program with LipLT in it, computed when it is first read: composed maps are costly.

    solver: of norms of whole maps, as of `proved_bound`.
    """

    program: Program
    solver: Solver

    @cached_property
    def global_bound(self) -> GlobalBound:
        """`proved_bound` with the composed maps of LipLT (docs/method.md, section 6)."""
        with torch.no_grad(), direct_sums():
            return proved_bound(self.program, self.solver, Composed.of(self.program))


@dataclass(frozen=True)
class _ProvedConstants:
    """The arithmetic of proved constants: numbers, rounded up.

    without_slopes: norms of terms. slopes: the largest of each block. origins: norms of the composed maps of
    each block.
    """

    without_slopes: Mapping[Term, float]
    slopes: Mapping[Node, float]
    origins: Mapping[Node, Mapping[Origin, float]]
    one: float = 1.0

    def sloped(self, block: Block, term: Term) -> float:
        """The norm of a term times the largest slope behind it."""
        return DOUBLE.above(self.without_slopes[term] * self.slopes[block.node])

    def product(self, block: Block, sources: Sequence[float]) -> float:
        return _together(block, [self.sloped(block, t) for t in block.terms], sources)

    def product_before(self, block: Block, sources: Sequence[float], product: float) -> float:
        return _together(block, [self.without_slopes[t] for t in block.terms], sources)

    def by_liplt(self, block: Block, constants: Mapping[Origin, float]) -> float:
        total, norms = 0.0, self.origins[block.node]
        for origin, constant in constants.items():
            total = DOUBLE.above(total + DOUBLE.above(norms[origin] * constant))
        return total

    def passed(self, block: Block, constant: float) -> float:
        return DOUBLE.above(constant * self.slopes[block.node])

    def least(self, one: float, other: float) -> float:
        return min(one, other)


def _together(block: Block, norms: Sequence[float], sources: Sequence[float]) -> float:
    """The Lipschitz constant of a block's value from the norms of its terms and the constants of its sources, rounded
    up (Proposition 5.2, i and ii)."""
    parts = [DOUBLE.above(norm * source) for norm, source in zip(norms, sources, strict=True)]
    return DOUBLE.above(math.hypot(*parts) if block.disjoint else sum(parts), len(parts) + 8)


def _composed_norms(
    program: Program, composed: Composed, without_slopes: Mapping[Term, float], solver: Solver | None
) -> dict[Node, dict[Origin, float]]:
    """UPPER bounds of the norms of all composed maps, by block, at most the products of their parts' norms."""
    found: dict[Node, dict[Origin, float]] = {}
    products: dict[Node, dict[Origin, float]] = {program.input: {Origin(program.input): 1.0}}
    for block in program.blocks:
        known, maps = _products(block, without_slopes, products), composed.maps[block.node]
        direct = {origin for origin in maps if _direct(origin, block, products)}
        found[block.node] = {
            origin: known[origin] if origin in direct else min(known[origin], composed_norm(term, solver))
            for origin, term in maps.items()
        }
        products[block.node] = _behind(composed.added[block.node], known)
    return found


def _products(
    block: Block, norms: Mapping[Term, float], products: Mapping[Node, Mapping[Origin, float]]
) -> dict[Origin, float]:
    """An UPPER bound of every composed map of a block: the norms of its parts, added up over its sources."""
    found: dict[Origin, float] = {}
    for term in block.terms:
        for origin, norm in products[term.source].items():
            found[origin] = DOUBLE.above(found.get(origin, 0.0) + DOUBLE.above(norms[term] * norm))
    return found


def _direct(origin: Origin, block: Block, products: Mapping[Node, Mapping[Origin, float]]) -> bool:
    """Whether the composed map is the block's own but for one factor: its norm is known already."""
    sources = [s for s in block.sources if origin in products[s]]
    return origin.even and len(sources) == 1 and (origin.moved is sources[0] or origin.node is sources[0])


def _behind(
    added: Sequence[tuple[LoopTransform | None, Origin]], products: Mapping[Origin, float]
) -> dict[Origin, float]:
    """The products of norms behind an activation, from its own origins and those in front of it."""
    found = dict(products)
    for transform, origin in added:
        if transform is None:
            return {origin: 1.0}
        linear, remainder = (op.norm_bound(origin.node.shape) for op in (transform.linear, transform.remainder))
        found = {other: DOUBLE.above(norm * linear) for other, norm in found.items()}
        found[origin] = remainder
    return found


def _proved_pairs(program: Program, composed: Composed, constants: Constants[float]) -> Tensor | None:
    """Upper bounds of the constants of pairs, rounding included, `[logits, logits]`; None as for `Composed.pairs`."""
    last = program.blocks[-1]
    if last.activation is not None:
        return None
    unit = torch.eye(last.node.shape[0], dtype=torch.float64, device=program.device)
    total = torch.zeros_like(unit)
    with torch.no_grad():
        for origin, term in composed.maps[last.node].items():
            count = term.roundings_back
            size = DOUBLE.above(term.magnitude_adjoint(unit), count)
            lost = DOUBLE.above(distance(size * DOUBLE.gamma(count)) + term.underflow_back, 2)
            apart = DOUBLE.above(distances(term.adjoint(unit)), math.prod(term.columns) + 4) + lost + lost[:, None]
            total = DOUBLE.above(total + apart * constant_at(origin, 1.0, constants.before, constants.after), 6)
    return total
