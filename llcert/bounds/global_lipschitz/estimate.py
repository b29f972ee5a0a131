"""Estimates of global Lipschitz constants: norms by iteration, differentiable (docs/method.md, sections 5, 6, 7.1).

For the caps of local norms, for the stage `global` and for training. `proof.py` beside this file proves such constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from llcert.bounds.forward.joins import term_norms
from llcert.bounds.global_lipschitz.constants import GlobalBound, lipschitz_constants
from llcert.bounds.global_lipschitz.stacked import NOTHING, KnownNorms
from llcert.bounds.liplt import Composed, Origin
from llcert.ir import Node
from llcert.numerics.tensors import flat, length
from llcert.program import Block, Program, Term
from llcert.spectral import Lanczos, Masked, Side, Solver, random_start, scaled_permutation_norm


def global_bound(
    program: Program,
    solver: Solver | None = None,
    seed: int = 0,
    *,
    starts: Mapping[Term, Tensor] | None = None,
    joint: bool = True,
    crude: bool = True,
    composed: Composed | None = None,
    known: KnownNorms | None = None,
) -> GlobalBound:
    """The global Lipschitz bound, an ESTIMATE; a crude upper bound stands in for norms that do not converge.

    starts: vectors `[1, *columns]` to begin with; random where there are none. joint: whether terms that add up get one
    more norm, of all of them side by side, which may be less than their sum. composed: the composed maps, for LipLT.
    known: norms and vectors that are known already. crude: False takes what the solver found, converged or not.
    """
    one, starts, known = torch.ones((), dtype=program.dtype, device=program.device), starts or {}, known or NOTHING
    solver = solver or Lanczos(tolerance=1e-5, vectors=True)
    norm_of = partial(_norm, solver, one, crude)
    seeds = {block.node: seed + number for number, block in enumerate(program.blocks)}
    slopes = {block.node: _largest_slopes(one, block) for block in program.blocks}
    maps = _needed(program, composed, known)
    own = {
        t: _sloped(known, t, slopes[b.node]) or norm_of(t, slopes[b.node], starts.get(t), seeds[b.node])
        for b in program.blocks
        for t in b.terms
    }
    of_composed = {
        t: known.composed.get(t) or norm_of(t, _ones(one, t.output.shape), starts.get(t), seeds[node])
        for node, origins in maps.items()
        for t in origins.values()
    }
    origins = {node: {origin: of_composed[t][0] for origin, t in own_maps.items()} for node, own_maps in maps.items()}
    arithmetic = _EstimatedConstants(one, norm_of, solver if joint else None, seeds, slopes, own, origins)
    constants = lipschitz_constants(program, arithmetic, maps)
    pairs = None if composed is None else composed.pairs(program, constants.before, constants.after, known.apart)
    found = of_composed | own  # a map of LipLT may be a term, but has no slope
    norms, vectors = ({t: pair[n] for t, pair in found.items()} for n in (0, 1))
    return GlobalBound(norms, vectors, constants.after, program.output, Side.ESTIMATE, pairs, composed is not None)


def _needed(program: Program, composed: Composed | None, known: KnownNorms) -> Mapping[Node, Mapping[Origin, Term]]:
    """The composed maps whose norms are needed: not those to the logits where constants of pairs suffice."""
    if composed is None:
        return {}
    left_out = None if known.apart is None else program.output
    return {node: maps for node, maps in composed.maps.items() if node is not left_out}


def _sloped(known: KnownNorms, term: Term, slopes: Tensor) -> tuple[Tensor, Tensor] | None:
    """The known norm of a term with the slopes behind it, `[1, *output shape]`, and its vector."""
    if term not in known.without_slopes:
        return None
    image, vector = known.without_slopes[term]
    return length(slopes * image)[0], vector


def with_pairs(bound: GlobalBound, program: Program, seed: int = 0) -> GlobalBound:
    """The bound with estimates of the constants of pairs by LipLT, good to a thousandth; unchanged where LipLT gains
    nothing."""
    composed = Composed.of(program)
    if composed is None:
        return bound
    solver = Lanczos(tolerance=1e-3, vectors=True)
    return replace(bound, pairs=global_bound(program, solver, seed, starts=bound.vectors, composed=composed).pairs)


def _ones(one: Tensor, shape: Sequence[int]) -> Tensor:
    """Ones, `[1, *shape]`."""
    return one.expand(1, *shape)


def _largest_slopes(one: Tensor, block: Block) -> Tensor:
    """The largest slopes of a block's activation over all inputs, `[1, *pre shape]`: factors of its unmasked rows."""
    rows = _ones(one, block.pre.shape)
    if block.activation is not None:
        rows = rows * block.activation.global_slope(block.pre.shape).to(rows)
    return rows


NormOf = Callable[[Term, Tensor, Tensor | None, int], tuple[Tensor, Tensor]]
"""The norm of a term with row factors, a scalar, and its vector, `[1, *columns]`, from a start, None for a random one,
and a seed."""


def _norm(
    solver: Solver, one: Tensor, crude: bool, term: Term, rows: Tensor, start: Tensor | None, seed: int
) -> tuple[Tensor, Tensor]:
    """`NormOf`, by iteration. one: a scalar in the program's format. crude: as for `global_bound`."""
    columns = _ones(one, term.columns)
    start = random_start((1, *term.columns), columns, seed) if start is None else start
    if term.is_scaled_permutation:
        return scaled_permutation_norm(Masked(term, rows, columns), start).value[0], start
    norm = solver(Masked(term, rows, columns), start)
    value = norm.value
    if crude and not bool(norm.converged.all()):  # to look is to wait for a GPU
        value = _crude(term, rows, columns)
    return value[0], start if norm.vector is None else norm.vector


@dataclass(frozen=True)
class _EstimatedConstants:
    """The arithmetic of estimated constants: scalar tensors, differentiable.

    one: a scalar in the program's format. joint_solver: of the norms of terms side by side, None for none. seeds: of
    the random starts of each block. slopes: the largest of each block, `[1, *pre shape]`. found: norms of terms,
    slopes included, and their vectors. origins: norms of the composed maps of each block.
    """

    one: Tensor
    norm_of: NormOf
    joint_solver: Solver | None
    seeds: Mapping[Node, int]
    slopes: Mapping[Node, Tensor]
    found: Mapping[Term, tuple[Tensor, Tensor]]
    origins: Mapping[Node, Mapping[Origin, Tensor]]

    def product(self, block: Block, sources: Sequence[Tensor]) -> Tensor:
        rows, columns = self.slopes[block.node], [_ones(self.one, t.columns) for t in block.terms]
        sizes, radii = [self.found[t][0][None] for t in block.terms], [s[None] for s in sources]
        seed = self.seeds[block.node]
        return term_norms(block, rows, columns, sizes, radii, self.joint_solver, seed).deviation(radii)[0]

    def product_before(self, block: Block, sources: Sequence[Tensor], product: Tensor) -> Tensor:
        if bool((self.slopes[block.node] == 1).all()):
            return product
        rows, seed = _ones(self.one, block.pre.shape), self.seeds[block.node]
        norms = [self.norm_of(t, rows, None, seed)[0] for t in block.terms]
        moved = torch.stack([norm * source for norm, source in zip(norms, sources, strict=True)])
        return length(moved, 0) if block.disjoint else moved.sum()

    def by_liplt(self, block: Block, constants: Mapping[Origin, Tensor]) -> Tensor:
        norms = self.origins[block.node]
        return torch.stack([norms[origin] * constant for origin, constant in constants.items()]).sum()

    def passed(self, block: Block, constant: Tensor) -> Tensor:
        return constant * self.slopes[block.node].amax()

    def least(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.minimum(one, other)


def _crude(term: Term, rows: Tensor, columns: Tensor) -> Tensor:
    """An upper bound of a norm without iteration: the root of the largest row sum times the largest column sum of the
    absolute matrix."""
    row_sums = flat(rows * term.magnitude(columns)).amax(1)
    column_sums = flat(term.magnitude_adjoint(rows)).amax(1)
    return row_sums.sqrt() * column_sums.sqrt()
