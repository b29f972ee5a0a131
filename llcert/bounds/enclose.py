"""Regions that are proofs: the forward pass in float64, every rounding paid for (METHOD, sections 2 to 4 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.bounds.box import Hidden, box, sizes
from llcert.bounds.forward import Balls, Rows, Trace, row_weights
from llcert.bounds.join import reach
from llcert.bounds.lipschitz import GlobalBound
from llcert.bounds.roundoff import Roundoff, block_error, distance
from llcert.bounds.unmasked import magnitude_bound, rounded_up, steepest
from llcert.ir import Node
from llcert.program import Block, Program, Term
from llcert.region import Region, spread
from llcert.rounding import DOUBLE, Rounding, downwards, upwards
from llcert.spectral import Masked, Norm, Side, Solver


@dataclass(frozen=True)
class Deployment:
    """The network as it is run: node by node in some format, sums in any order, subnormals flushed or not.

    magnitudes: upper bounds of `||N||` for each term, N the product of its absolute matrices.
    """

    format: Rounding
    magnitudes: Mapping[Term, float]

    @staticmethod
    def of(program: Program, form: Rounding) -> Deployment:
        """A program's deployment in a format. program: in float64."""
        return Deployment(form, {t: magnitude_bound(t) for b in program.blocks for t in b.terms})


def enclosing_ball(images: Tensor, eps: float, *, clip: bool = False) -> Region:
    """The L2 ball around each image, rounded outwards. images: `[batch, *shape]`, float64; eps: not below the radius."""
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
    deployment: Deployment | None = None,
    seed: int = 0,
) -> Trace:
    """Outer bounds of every value of the real network over `region`, rounding included.

    Centres are the values float64 computes; what they miss is in the radii. program, region: float64.
    unmasked: proved norms, in place of every one that the solver does not prove. solver: of the local norms; None:
    the unmasked ones alone. boxes: as for `propagate`, proved. deployment: also bounds how far the deployed network is
    from the real one. Raises ValueError for a solver or a bound that only estimates.
    """
    if program.dtype != torch.float64:
        raise ValueError("a proof is computed in float64")
    _require(unmasked.side)
    known = Roundoff(drift={program.input: torch.zeros_like(region.radius)} if deployment else {})
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    trace = Trace(hidden={program.input: Hidden(region, everything)}, side=unmasked.side, roundoff=known)
    weakest = unmasked.side
    for number, block in enumerate(program.blocks):
        sources = {s: trace.hidden[s] for s in block.sources}
        z, error = _box(block, sources, known)
        if boxes and block.node in boxes:
            z = z.within(*boxes[block.node])
        weights = torch.minimum(rounded_up(row_weights(block, z, rows)), steepest(block))
        radius = _radius(block, sources, weights, unmasked, solver, trace, seed + number) + distance(error, weights)
        weakest = Side.PROBABLE if any(trace.norms[t].side is Side.PROBABLE for t in block.terms) else weakest
        trace.before[block.node], trace.weighted[block.node] = z, (weights, DOUBLE.above(radius, 2))
        trace.hidden[block.node] = _activate(block, z, DOUBLE.above(radius, 2))
        if deployment:
            known.drift[block.node] = _drift(block, known, unmasked, deployment, trace.hidden[block.node])
    return replace(trace, side=weakest)


def _require(side: Side) -> None:
    if side is Side.ESTIMATE:
        raise ValueError("an estimate of a norm cannot support a proof")


def _box(block: Block, sources: Mapping[Node, Hidden], known: Roundoff) -> tuple[Region, Tensor]:
    """The block's box, and the error of its centre; records sizes and errors."""
    largest = {s: _largest(h.region) for s, h in sources.items()}
    size, total = (DOUBLE.above(s, block.roundings + s[0].numel() + 8) for s in sizes(block, largest))
    error = block_error(block, size)
    z = box(block, sources)
    lower, upper = downwards(z.lower - error), upwards(z.upper + error)
    known.sizes[block.node], known.errors[block.node], known.totals[block.node] = size, error, total
    return replace(z, lower=torch.minimum(lower, z.centre), upper=torch.maximum(upper, z.centre)), error


def _largest(region: Region) -> Tensor:
    """The largest absolute value of each entry over a region, its centre included."""
    return torch.maximum(torch.maximum(region.lower.abs(), region.upper.abs()), region.centre.abs())


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
    return DOUBLE.above(reach(block, weights, columns, values, radii, joint, seed)(radii), 16)


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


def _activate(block: Block, z: Region, radius: Tensor) -> Hidden:
    """The region of the output. Entries of a block without activation all vary: what moves in them is the centre's error."""
    phi = block.activation
    if phi is None:
        return Hidden(_tightened(replace(z, radius=radius)), torch.ones_like(z.centre, dtype=torch.bool))
    centre, (lower, upper) = phi(z.centre), phi.box(z.lower, z.upper)
    if phi.roundings:
        lower, upper = downwards(lower - _off(lower, phi.roundings)), upwards(upper + _off(upper, phi.roundings))
        radius = DOUBLE.above(radius + distance(_off(centre, phi.roundings)), 2)
    lower, upper = torch.minimum(lower, centre), torch.maximum(upper, centre)
    return Hidden(_tightened(Region(centre, lower, upper, radius)), phi.varying(z))


def _off(value: Tensor, roundings: int) -> Tensor:
    """How far a computed value may be off after so many roundings, relatively."""
    return DOUBLE.above(DOUBLE.gamma(2 * roundings) * value.abs(), 2)


def _tightened(region: Region) -> Region:
    """Box cut by ball, then ball by box, outwards."""
    radius = spread(region.radius, region.centre)
    lower = torch.fmax(region.lower, downwards(region.centre - radius))
    upper = torch.fmin(region.upper, upwards(region.centre + radius))
    lower, upper = torch.minimum(lower, region.centre), torch.maximum(upper, region.centre)
    farthest = distance(upwards(torch.maximum(upper - region.centre, region.centre - lower)))
    return Region(region.centre, lower, upper, torch.fmin(region.radius, farthest))


def _drift(block: Block, known: Roundoff, unmasked: GlobalBound, deployment: Deployment, hidden: Hidden) -> Tensor:
    """Upper bound of the distance between the deployed and the real output, `[batch]`; infinite where it may overflow.

    The error so far grows by the unmasked norms, for the deployed value may leave its region; on top comes what the
    block's own sums and its activation round (docs/soundness.md, lemma 8).
    """
    inputs = [known.drift[t.source] for t in block.terms]
    carried = sum((unmasked.norms[t] * d for t, d in zip(block.terms, inputs, strict=True)), torch.zeros_like(inputs[0]))
    own = deployed_error(block, known, deployment)
    roundings = 0 if block.activation is None else block.activation.roundings
    total = DOUBLE.above(carried + float(steepest(block).max()) * distance(own), 64)
    value = DOUBLE.above(distance(_largest(hidden.region)) + total, 2)
    final = deployment.format.gamma(2 * roundings) * value + 2 * roundings * deployment.format.tiny * own[0].numel() ** 0.5
    return DOUBLE.above(total + final, 8)


def deployed_error(block: Block, known: Roundoff, deployment: Deployment) -> Tensor:
    """Bounds of what the deployed format errs in each entry of a block's value, `[batch, *pre shape]`; infinite where
    it may overflow."""
    form, size = deployment.format, known.sizes[block.node]
    beyond = sum((deployment.magnitudes[t] * known.drift[t.source] for t in block.terms), torch.zeros_like(size.flatten(1)[:, 0]))
    size = DOUBLE.above(size + spread(beyond, size), 4)
    largest = size.flatten(1).amax(1) + 1
    lost = spread(block.underflow * (form.tiny / DOUBLE.tiny) * largest, size)
    error = DOUBLE.above(form.gamma(block.roundings) * size + lost, 8)
    return torch.where(size * 4 < form.largest, error, torch.inf)
