"""Regions that are proofs: the forward pass in float64, every rounding paid for (METHOD, sections 2 to 4 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from llcert.bounds.box import Hidden, box
from llcert.bounds.forward import Rows, Trace, row_weights
from llcert.bounds.join import reach
from llcert.bounds.lipschitz import GlobalBound
from llcert.bounds.roundoff import Passage, Roundoff, distance, flushed, largest, off
from llcert.bounds.unmasked import rounded_up, steepest
from llcert.ir import Node
from llcert.program import Block, Program, Term
from llcert.region import Region, spread
from llcert.rounding import DOUBLE, Rounding, downwards, upwards
from llcert.spectral import Masked, Norm, Side, Solver


def enclosing_ball(images: Tensor, eps: float, *, clip: bool = False) -> Region:
    """The L2 ball around each image, rounded outwards.

    images: `[batch, *shape]`, float64. eps: not below the radius.
    """
    lower, upper = downwards(images - eps), upwards(images + eps)
    if clip:
        lower, upper = torch.minimum(lower.clamp(min=0), images), torch.maximum(upper.clamp(max=1), images)
    return Region(images, lower, upper, images.new_full((len(images),), eps))


def enclose(
    program: Program,
    region: Region,
    unmasked: GlobalBound,
    solver: Solver | None,
    *,
    rows: Rows = Rows.MASK,
    boxes: Mapping[Node, tuple[Tensor, Tensor]] | None = None,
    deployed: Rounding | None = None,
    seed: int = 0,
) -> Trace:
    """Outer bounds of every value over `region`, rounding included, of the network in real numbers and as deployed.

    Centres are the values float64 computes; what they miss is in boxes and radii. program, region: float64.
    unmasked: proved norms, in place of every one that the solver does not prove. solver: of the local norms; None:
    the unmasked ones alone. boxes: as for `propagate`, proved. deployed: the format the network runs in, node by node,
    sums in any order; None: in real numbers alone. Raises ValueError for a solver or a bound that only estimates.
    """
    if program.dtype != torch.float64:
        raise ValueError("a proof is computed in float64")
    _require(unmasked.side)
    known = Roundoff()
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    trace = Trace(hidden={program.input: Hidden(region, everything)}, side=unmasked.side, roundoff=known)
    weakest = unmasked.side
    for number, block in enumerate(program.blocks):
        sources = {s: trace.hidden[s] for s in block.sources}
        z, error = _box(block, sources, deployed, known)
        if boxes and block.node in boxes:
            z = z.within(*boxes[block.node])
        weights = torch.minimum(rounded_up(row_weights(block, z, rows)), steepest(block))
        radius = _radius(block, sources, weights, unmasked, solver, trace, seed + number) + distance(error, weights)
        weakest = Side.PROBABLE if any(trace.norms[t].side is Side.PROBABLE for t in block.terms) else weakest
        trace.before[block.node], trace.weighted[block.node] = z, (weights, DOUBLE.above(radius, 2))
        hidden = _activate(block, z, DOUBLE.above(radius, 2), deployed, known)
        trace.hidden[block.node] = _unless_lost(hidden, error, deployed)
    return replace(trace, side=weakest)


def _require(side: Side) -> None:
    if side is Side.ESTIMATE:
        raise ValueError("an estimate of a norm cannot support a proof")


def _box(
    block: Block, sources: Mapping[Node, Hidden], deployed: Rounding | None, known: Roundoff
) -> tuple[Region, Tensor]:
    """The block's box, and the errors of its value; records both and the sizes."""
    passage = Passage.of(block, {s: h.region for s, h in sources.items()})
    error, z = passage.error(), box(block, sources)
    z = _widened(z, error)
    if deployed is not None:
        more = passage.deployed(deployed, largest(z))
        z, error = _widened(z, more), upwards(error + more)
    known.sizes[block.node], known.totals[block.node], known.errors[block.node] = passage.size, passage.total, error
    return z, error


def _widened(z: Region, error: Tensor) -> Region:
    lower, upper = downwards(z.lower - error), upwards(z.upper + error)
    return replace(z, lower=torch.minimum(lower, z.centre), upper=torch.maximum(upper, z.centre))


def _radius(
    block: Block,
    sources: Mapping[Node, Hidden],
    weights: Tensor,
    unmasked: GlobalBound,
    solver: Solver | None,
    trace: Trace,
    seed: int,
) -> Tensor:
    """Upper bound of how far the weighted value moves, `[batch]`; records the norms."""
    columns = [sources[t.source].varying.to(weights.dtype) for t in block.terms]
    for term, own in zip(block.terms, columns, strict=True):
        trace.norms[term] = _norm(Masked(term, weights, own), unmasked, solver)
    values = [trace.norms[t].value for t in block.terms]
    radii = [sources[t.source].region.radius for t in block.terms]
    joint = None if solver is None else _checked(solver)
    return DOUBLE.above(reach(block, weights, columns, values, radii, joint, seed)(radii), len(radii) + 16)


def _checked(solver: Solver) -> Solver:
    """The same solver, which may not estimate."""

    def call(masked: Masked, start: Tensor) -> Norm:
        norm = solver(masked, start)
        _require(norm.side)
        return norm

    return call


def _norm(masked: Masked, unmasked: GlobalBound, solver: Solver | None) -> Norm:
    """A proved norm, never above the unmasked one."""
    term = masked.map
    assert isinstance(term, Term)
    ceiling = unmasked.norms[term].expand(masked.batch)
    none = torch.zeros(masked.batch, dtype=torch.int64, device=masked.columns.device)
    if term.moves:
        largest = (masked.rows * term.magnitude(masked.columns)).flatten(1).amax(1)
        value = DOUBLE.above(largest, term.roundings + 2) + term.underflow
        norm = Norm(value, Side.UPPER, masked.columns, none, torch.isfinite(value))
    elif solver is None:
        norm = Norm(ceiling, unmasked.side, masked.columns, none, torch.isfinite(ceiling))
    else:
        norm = _checked(solver)(masked, masked.columns)
    proved = norm.converged & (norm.value <= ceiling)
    return replace(norm, value=torch.where(proved, norm.value, ceiling))


def _activate(block: Block, z: Region, radius: Tensor, deployed: Rounding | None, known: Roundoff) -> Hidden:
    """The region of the output. Without an activation all entries vary: if nothing else, by the centre's error."""
    phi = block.activation
    if phi is None:
        return Hidden(_tightened(replace(z, radius=radius)), torch.ones_like(z.centre, dtype=torch.bool))
    region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
    size = largest(region) if phi.relative else largest(region).clamp(min=1)
    error, varying = off(size, phi.roundings), phi.varying(z)
    if deployed is not None:
        lost = flushed(z, region, phi, deployed)
        summed = phi.summed(z)
        if summed is not None:
            lost = lost + DOUBLE.above(deployed.gamma(8) * summed, 4)
            lost = torch.where(summed > 0, lost, flushed(z, region, phi, deployed))
        error, varying = upwards(error + off(size, phi.roundings, deployed) + lost), varying | (lost > 0)
    known.after[block.node] = error
    region = replace(_widened(region, error), radius=DOUBLE.above(radius + distance(error), 2))
    return Hidden(_tightened(region), varying)


def _unless_lost(hidden: Hidden, error: Tensor, deployed: Rounding | None) -> Hidden:
    """The same, but nothing is known of images for which the deployed format may overflow: NaN ignores any bound.

    error: of the value before the activation.
    """
    if deployed is None:
        return hidden
    fits = torch.isfinite(error).flatten(1).all(1)
    fits = fits & (4 * largest(hidden.region) < deployed.largest).flatten(1).all(1)
    known = hidden.region
    lower, upper = (torch.where(spread(fits, x), x, torch.nan) for x in (known.lower, known.upper))
    radius = torch.where(fits, known.radius, torch.nan)
    return Hidden(Region(known.centre, lower, upper, radius), hidden.varying | ~spread(fits, known.centre))


def _tightened(region: Region) -> Region:
    """Box cut by ball, then ball by box, outwards."""
    radius = spread(region.radius, region.centre)
    lower = torch.fmax(region.lower, downwards(region.centre - radius))
    upper = torch.fmin(region.upper, upwards(region.centre + radius))
    lower, upper = torch.minimum(lower, region.centre), torch.maximum(upper, region.centre)
    farthest = distance(upwards(torch.maximum(upper - region.centre, region.centre - lower)))
    return Region(region.centre, lower, upper, torch.fmin(region.radius, farthest))
