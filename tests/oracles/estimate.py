"""The estimating forward pass as it was before there was one propagation for estimates and proofs, word for word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from oracles.traces import Reach, Trace, reach
from torch import Tensor

from llcert.bounds import Balls, GlobalBound, RowWeighting, Start
from llcert.bounds.forward.box import box
from llcert.bounds.forward.row_weights import row_weights
from llcert.bounds.forward.starts import starting_vector
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.numerics.tensors import flat
from llcert.program import Block, Program, Term
from llcert.spectral import Lanczos, Masked, Norm, Side, Solver


def propagate(  # noqa: PLR0913
    program: Program,
    region: Region,
    global_bound: GlobalBound | None,
    *,
    balls: Balls = Balls.LOCAL,
    weighting: RowWeighting = RowWeighting.SLOPE,
    solver: Solver | None = None,
    start: Start = Start.UNMASKED,
    saved: Mapping[Term, Tensor] | None = None,
    seed: int | Tensor = 0,
    joint: bool = True,
    boxes: Mapping[Node, tuple[Tensor, Tensor]] | None = None,
) -> Trace:
    """Outer bounds of every value over `region`, with local norms that are never above the global ones.

    region: of the image, `[batch, *input shape]`. global_bound: the global bound of the same program: local norms that
    do not converge fall back on it; None for Balls.BOX, which needs none. saved: start vectors `[batch, *columns]` of
    earlier calls, for Start.SAVED. seed: of random starts, one or `[batch]`. joint: as for `global_bound`. boxes: more
    that is known of the values of some blocks before their activation: lower and upper, `[batch, *shape]`.
    The result is an ESTIMATE: its norms come from power iteration, and rounding is not paid for.
    """
    if global_bound is None and balls is not Balls.BOX:
        raise ValueError(f"{balls} need the global bound")
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    trace = Trace(post_activation={program.input: MaskedRegion(region, everything)})
    lipschitz = {program.input: torch.ones_like(region.radius)}
    for number, block in enumerate(program.blocks):
        sources = {s: trace.post_activation[s] for s in block.sources}
        z = box(block, sources)
        if boxes and block.node in boxes:
            z = z.within(*boxes[block.node])
        weights = row_weights(block, z, weighting)
        radius = torch.full_like(region.radius, torch.inf)
        if global_bound is not None and balls is not Balls.BOX:
            ceiling = global_bound.lipschitz[block.node].expand_as(radius)
            lipschitz[block.node], radius = ceiling, ceiling * region.radius
            if balls is Balls.LOCAL:
                masked = _masked(block, sources, weights)
                for term, own in masked.items():
                    given = starting_vector(term, global_bound, own.columns, start, saved, seed + number)
                    whole = _whole(block, own, global_bound, given)
                    trace.norms[term] = whole or _local_norm(own, global_bound, solver or Lanczos(), given)
                moved = _reach(block, masked, trace, (solver or Lanczos()) if joint else None, seed + number)
                lipschitz[block.node] = _at_most(moved([lipschitz[t.source] for t in block.terms]), ceiling)
                radius = _at_most(moved([sources[t.source].region.radius for t in block.terms]), radius)
        trace.pre_activation[block.node], trace.weighted[block.node] = z, (weights, radius)
        trace.post_activation[block.node] = _activate(block, z, radius, sources)
    bounded = balls is Balls.GLOBAL or (balls is Balls.LOCAL and weighting is RowWeighting.SLOPE)
    return replace(trace, lipschitz=lipschitz, logit_lipschitz=lipschitz[program.output]) if bounded else trace


def _masked(block: Block, sources: Mapping[Node, MaskedRegion], rows: Tensor) -> dict[Term, Masked]:
    """Each term of a block without the rows and columns that stay constant."""
    return {t: Masked(t, rows, sources[t.source].mask) for t in block.terms}


def _reach(
    block: Block, masked: Mapping[Term, Masked], trace: Trace, solver: Solver | None, seed: int | Tensor
) -> Reach:
    """How far the block's output moves, by the norms the trace holds."""
    rows = next(iter(masked.values())).rows
    columns = [masked[t].columns for t in block.terms]
    sizes = [trace.norms[t].value for t in block.terms]
    radii = [trace.post_activation[t.source].region.radius for t in block.terms]
    return reach(block, rows, columns, sizes, radii, solver, seed)


def _whole(block: Block, masked: Masked, global_bound: GlobalBound, start: Tensor) -> Norm | None:
    """The global norm, where no image's masks leave anything out of the map: nothing else is to be found."""
    phi = block.activation
    slopes = torch.ones(()) if phi is None else phi.global_slope(block.pre.shape)
    full = bool((masked.columns == 1).all()) and bool((masked.rows == slopes.to(masked.rows)).all())
    term = masked.map
    assert isinstance(term, Term)
    if not full or term.is_scaled_permutation:
        return None
    value = global_bound.norms[term].expand(masked.batch)
    vector = global_bound.vectors[term].expand_as(start) if term in global_bound.vectors else start
    return Norm(value, Side.ESTIMATE, vector, torch.zeros_like(value, dtype=torch.int64), torch.isfinite(value))


def _local_norm(masked: Masked, global_bound: GlobalBound, solver: Solver, start: Tensor) -> Norm:
    """The local norm, cut at the global one (Theorem 1), which also answers where the solver did not converge."""
    term = masked.map
    assert isinstance(term, Term)
    ceiling = global_bound.norms[term].expand(masked.batch)
    if term.is_scaled_permutation:
        value = flat(masked.rows * term.magnitude(masked.columns)).amax(1)
        norm = Norm(value, Side.UPPER, start, torch.zeros_like(value, dtype=torch.int64), torch.isfinite(value))
    else:
        norm = solver(masked, start)
    trusted = norm.converged & (norm.value <= ceiling)
    return Norm(torch.where(trusted, norm.value, ceiling), norm.side, norm.vector, norm.iterations, norm.converged)


def _at_most(value: Tensor, ceiling: Tensor) -> Tensor:
    """A bound cut at the global one, which also answers where it is NaN."""
    return torch.where(value <= ceiling, value, ceiling.expand_as(value))


def _activate(block: Block, z: Region, radius: Tensor, sources: Mapping[Node, MaskedRegion]) -> MaskedRegion:
    phi = block.activation
    if phi is None:
        region = Region(z.centre, z.lower, z.upper, radius)
        varying = torch.stack([t.reached(sources[t.source].varying) for t in block.terms]).any(0)
    else:
        region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
        varying = phi.varying(z)
    return MaskedRegion(region.ball_to_box().box_to_ball(), varying)
