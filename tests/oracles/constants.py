"""The two walks that found global Lipschitz constants before there was one, word for word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llcert.bounds import GlobalBound
from llcert.bounds.forward.joins import term_norms
from llcert.bounds.forward.roundoff import distance
from llcert.bounds.forward.row_weights import global_slopes
from llcert.bounds.global_lipschitz.norms import composed_norm, global_norm
from llcert.bounds.global_lipschitz.proof import check_stated
from llcert.bounds.liplt import Composed, Origin, constant_at, distances
from llcert.ir import LoopTransform, Node
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat, length
from llcert.program import Block, Program, Term
from llcert.spectral import Lanczos, Masked, Side, Solver, random_start


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
    joint: whether terms that add up get one more norm of them all, which may say less than their sum.
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
        combined = term_norms(block, rows, columns, sizes, radii, solver if joint else None, seed + number)
        lipschitz[block.node] = combined.deviation(radii)[0]
        if composed is not None:
            parts = [
                whole(t, seed + number) * constant_at(origin, lipschitz[program.input], before, lipschitz)
                for origin, t in composed.maps[block.node].items()
            ]
            product = lipschitz[block.node]
            if not bool((rows == 1).all()):
                product = _without_slopes(block, columns, radii, solver, seed + number, crude)
            before[block.node] = torch.minimum(torch.stack(parts).sum(), product)
            lipschitz[block.node] = torch.minimum(lipschitz[block.node], before[block.node] * rows.amax())
    pairs = None if composed is None else composed.pairs(program, before, lipschitz)
    return GlobalBound(norms, vectors, lipschitz, program.output, Side.ESTIMATE, pairs, composed is not None)


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
    if term.is_scaled_permutation:
        return (rows * term.magnitude(columns)).max(), start
    norm = solver(Masked(term, rows, columns), start)
    value = _crude(term, rows, columns) if crude and not bool(norm.converged.all()) else norm.value
    return value[0], start if norm.vector is None else norm.vector


def _crude(term: Term, rows: Tensor, columns: Tensor) -> Tensor:
    """Upper bound of a norm that needs no iteration: the root of the largest row sum times the largest column sum."""
    row_sums = flat(rows * term.magnitude(columns)).amax(1)
    column_sums = flat(term.magnitude_adjoint(rows)).amax(1)
    return row_sums.sqrt() * column_sums.sqrt()


def proved_bound(program: Program, solver: Solver | None = None, composed: Composed | None = None) -> GlobalBound:
    """The global Lipschitz bound with an UPPER bound for every norm, rounding included. program: in float64.

    Terms that add up count as their sum. composed: the maps of LipLT, if it is asked for; those that the solver does
    not prove count as the product of their parts. Raises UnsupportedModel for operators that do not state what a proof
    needs.
    """
    check_stated(program)
    norms: dict[Term, Tensor] = {}
    lipschitz: dict[Node, float] = {program.input: 1.0}
    before: dict[Node, float] = {}
    products: dict[Node, dict[Origin, float]] = {program.input: {Origin(program.input): 1.0}}
    for block in program.blocks:
        slope = float(global_slopes(block).max())
        plain = {t: global_norm(t, solver) for t in block.terms}
        sizes = {t: DOUBLE.above(norm * slope) for t, norm in plain.items()}
        parts = [DOUBLE.above(sizes[t] * lipschitz[t.source]) for t in block.terms]
        lipschitz[block.node] = _together(block, parts)
        if composed is not None:
            known = _products(block, plain, products)
            looped = 0.0
            for origin, term in composed.maps[block.node].items():
                norm = (
                    known[origin]
                    if _direct(origin, block, products)
                    else min(known[origin], composed_norm(term, solver))
                )
                looped = DOUBLE.above(looped + DOUBLE.above(norm * constant_at(origin, 1.0, before, lipschitz)))
            parts = [DOUBLE.above(plain[t] * lipschitz[t.source]) for t in block.terms]
            before[block.node] = min(looped, _together(block, parts))
            lipschitz[block.node] = min(lipschitz[block.node], DOUBLE.above(before[block.node] * slope))
            products[block.node] = _behind(composed.added[block.node], known)
        norms |= {t: torch.tensor(v, dtype=torch.float64, device=program.device) for t, v in sizes.items()}
    scalars = {n: torch.tensor(v, dtype=torch.float64, device=program.device) for n, v in lipschitz.items()}
    pairs = None if composed is None else _proved_pairs(program, composed, before, lipschitz)
    return GlobalBound(norms, {}, scalars, program.output, Side.UPPER, pairs, composed is not None)


def _together(block: Block, parts: Sequence[float]) -> float:
    """How far a block's value moves where its sources move it by so much each, rounded up."""
    return DOUBLE.above(math.hypot(*parts) if block.disjoint else sum(parts), len(parts) + 8)


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
    """Whether nothing but the block's own map lies between: its norm is known already."""
    sources = [s for s in block.sources if origin in products[s]]
    return origin.even and len(sources) == 1 and (origin.moved is sources[0] or origin.node is sources[0])


def _behind(
    added: Sequence[tuple[LoopTransform | None, Origin]], products: Mapping[Origin, float]
) -> dict[Origin, float]:
    """The products behind an activation."""
    found = dict(products)
    for transform, origin in added:
        if transform is None:
            return {origin: 1.0}
        linear, remainder = (op.norm_bound(origin.node.shape) for op in (transform.linear, transform.remainder))
        found = {other: DOUBLE.above(norm * linear) for other, norm in found.items()}
        found[origin] = remainder
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
        for origin, term in composed.maps[last.node].items():
            count = term.roundings_back
            size = DOUBLE.above(term.magnitude_adjoint(unit), count)
            lost = DOUBLE.above(distance(size * DOUBLE.gamma(count)) + term.underflow_back, 2)
            apart = DOUBLE.above(distances(term.adjoint(unit)), math.prod(term.columns) + 4) + lost + lost[:, None]
            total = DOUBLE.above(total + apart * constant_at(origin, 1.0, before, lipschitz), 6)
    return total
