"""The proving forward pass as it was before there was one propagation for estimates and proofs, but for lemma 3a."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from oracles.traces import Roundoff, Trace, reach
from torch import Tensor

from llcert.bounds import GlobalBound, RowWeighting
from llcert.bounds.forward.box import box
from llcert.bounds.forward.further_error import further_error
from llcert.bounds.forward.roundoff import (
    BlockRoundoff,
    BlockSizes,
    activation_flushing,
    activation_rounding,
    distance,
    largest,
)
from llcert.bounds.forward.row_weights import global_slopes, row_weights, slopes_rounded_up
from llcert.domain.pixel_range import PixelRange
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE, Rounding, downwards, upwards
from llcert.numerics.tensors import flat, spread
from llcert.program import Block, Program, Term
from llcert.spectral import Masked, Norm, Side, Solver


@dataclass(frozen=True)
class Frame:
    """How a proof leaves room for whoever checks it with other arithmetic.

    box: in place of the box of a block, from its sources. slack: boxes are wider by so much of the sizes that are added
    up, norms and radii larger by so much of themselves (norms by `n^2 u` more, n their smaller side). least: added to
    what may be too small to have room. products: roundings of a product in the deployed format, at least.
    """

    box: Callable[[Block, Mapping[Node, MaskedRegion]], Region]
    slack: float = 1e-9
    least: float = 1e-30
    products: int = 7

    def larger(self, value: Tensor) -> Tensor:
        """A bound >= 0 with room above it; what is practically zero is left alone."""
        return torch.where(value > DOUBLE.tiny * 2.0**20, value * (1 + self.slack) + self.least, value)

    def radius(self, value: Tensor) -> Tensor:
        """A radius with room above it, never 0."""
        return value * (1 + self.slack) + self.least

    def room(self, size: Tensor) -> Tensor:
        """By how much a box is wider at least, for values that are added up from numbers of this size."""
        return self.larger(size * self.slack) + 2.0**-800

    def norm(self, value: Tensor, sides: tuple[int, int]) -> Tensor:
        """A norm of a map with these sides, with room for a proof by factorisation."""
        return value * (1 + self.slack + 2 * DOUBLE.unit * min(sides) ** 2)


def enclosing_ball(
    images: Tensor, eps: float | Tensor, *, within: PixelRange | None = None, deployed: Rounding | None = None
) -> Region:
    """What reaches the network from the L2 ball around each image, rounded outwards: every point of the ball, and the
    number of the deployed format that it is rounded to.

    images: `[batch, *shape]`, the float64 numbers nearest to those of the file, which may be off by a rounding. eps:
    not below the radius, a number or `[batch]`. within: counts only points of the ball in a range of pixels, which
    holds the images.
    """
    radius = torch.as_tensor(eps, dtype=torch.float64, device=images.device).expand(len(images))
    lower, upper = downwards(images - spread(radius, images)), upwards(images + spread(radius, images))
    if within is not None:
        lower, upper = lower.clamp(min=within.low), upper.clamp(max=within.high)
        lower, upper = torch.minimum(lower, images), torch.maximum(upper, images)
    lost = DOUBLE.nearest(images.abs())
    if deployed is not None:
        lost = DOUBLE.above(lost + deployed.nearest(torch.maximum(lower.abs(), upper.abs()) + lost), 4)
    return _widened(Region(images, lower, upper, DOUBLE.above(radius + distance(lost), 2)), lost)


def enclose(  # noqa: PLR0913
    program: Program,
    region: Region,
    global_bound: GlobalBound,
    solver: Solver | None,
    *,
    weighting: RowWeighting = RowWeighting.SLOPE,
    boxes: Mapping[Node, tuple[Tensor, Tensor]] | None = None,
    deployed: bool = False,
    frame: Frame | None = None,
    seed: int = 0,
) -> Trace:
    """Outer bounds of every value over `region`, rounding included, of the network in real numbers and as deployed.

    Centres are the values float64 computes; what they miss is in boxes and radii. program, region: float64.
    global_bound: proved norms, in place of every one that the solver does not prove. solver: of the local norms; None:
    the global ones alone. boxes: as for `propagate`, proved. deployed: whether also of the network as it is run,
    node by node, every value in its own format, sums in any order. frame: room for a checker. Raises ValueError for a
    solver or a bound that only estimates.
    """
    if program.dtype != torch.float64:
        raise ValueError("a proof is computed in float64")
    _require(global_bound.side)
    known = Roundoff()
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    trace = Trace(
        post_activation={program.input: MaskedRegion(region, everything)}, side=global_bound.side, roundoff=known
    )
    weakest, slips = global_bound.side, known.slips
    slips[program.input] = torch.zeros_like(region.radius)
    for number, block in enumerate(program.blocks):
        sources = {s: trace.post_activation[s] for s in block.sources}
        z, roundoff = _box(block, sources, deployed, known, frame)
        if boxes and block.node in boxes:
            z = z.within(*boxes[block.node])
        weights = slopes_rounded_up(block, row_weights(block, z, weighting))
        if frame is not None:
            weights = torch.where(weights == 1, weights, frame.larger(weights))
        weights = torch.minimum(weights, global_slopes(block))
        radius = _radius(block, sources, weights, global_bound, solver, trace, seed + number, frame)
        radius = DOUBLE.above(radius + roundoff.length(weights), 2)
        if global_bound.includes_liplt:
            own = roundoff.length(global_slopes(block))
            own = own + distance(roundoff.float64, global_slopes(block)) if deployed else own
            slips[block.node] = _slip(block, slips, global_bound, own)
            ceiling = DOUBLE.above(global_bound.lipschitz[block.node] * region.radius + slips[block.node], 4)
            radius = torch.where(ceiling < radius, ceiling, radius)  # a radius that is NaN stays so
        radius = radius if frame is None else frame.radius(radius)
        weakest = Side.PROBABLE if any(trace.norms[t].side is Side.PROBABLE for t in block.terms) else weakest
        trace.pre_activation[block.node], trace.weighted[block.node] = z, (weights, radius)
        hidden = _activate(block, z, radius, deployed, known, frame)
        if global_bound.includes_liplt and block.node in known.after:
            lost = distance(known.after[block.node])
            if deployed and block.activation is not None:
                ends = block.activation.box(z.lower, z.upper)
                values = Region(block.activation(z.centre), *ends, radius)
                lost = lost + distance(activation_rounding(block.activation, values, DOUBLE))
            slips[block.node] = DOUBLE.above(slips[block.node] + lost, 4)
        hidden = _unless_lost(hidden, roundoff.error, block.node.rounding) if deployed else hidden
        trace.post_activation[block.node] = hidden
    return replace(trace, side=weakest)


def _slip(block: Block, slips: Mapping[Node, Tensor], global_bound: GlobalBound, own: Tensor) -> Tensor:
    """How far an evaluation's value, times the activation's slopes, is from that in real numbers, `[batch]`.

    At one point. slips: of the sources. own: what the block itself errs.
    """
    parts = [global_bound.norms[t] * slips[t.source] for t in block.terms]
    return DOUBLE.above(torch.stack([*parts, own]).sum(0), len(parts) + 4)


def _require(side: Side) -> None:
    if side is Side.ESTIMATE:
        raise ValueError("an estimate of a norm cannot support a proof")


def _box(
    block: Block, sources: Mapping[Node, MaskedRegion], deployed: bool, known: Roundoff, frame: Frame | None
) -> tuple[Region, BlockRoundoff]:
    """The block's box, and the errors of its value; records both and the sizes."""
    regions = {s: h.region for s, h in sources.items()}
    sizes = BlockSizes.of(block, regions)
    float64, z = sizes.float64_error(), box(block, sources) if frame is None else frame.box(block, sources)
    z = _widened(z, float64 if frame is None else float64 + frame.room(sizes.size))
    error = centred = float64
    none = torch.zeros_like(sizes.total)
    further = none
    if deployed:
        more = sizes.deployed_error(largest(z), 0 if frame is None else frame.products)
        more = more if frame is None else frame.larger(more)
        z, error = _widened(z, more), upwards(float64 + more)
        value = DOUBLE.above(z.centre.abs() + float64)
        least = 0 if frame is None else frame.products
        more = BlockSizes.at_centre(block, regions).deployed_error(value, least)
        centred = upwards(float64 + (more if frame is None else frame.larger(more)))
        further = further_error(block, {s: r.radius for s, r in regions.items()}, least)
    known.sizes[block.node], known.totals[block.node], known.errors[block.node] = sizes.size, sizes.total, error
    return z, BlockRoundoff(sizes.size, sizes.total, float64, error, centred, further, none, none)


def _widened(z: Region, error: Tensor) -> Region:
    lower, upper = downwards(z.lower - error), upwards(z.upper + error)
    return replace(z, lower=torch.minimum(lower, z.centre), upper=torch.maximum(upper, z.centre))


def _radius(
    block: Block,
    sources: Mapping[Node, MaskedRegion],
    weights: Tensor,
    global_bound: GlobalBound,
    solver: Solver | None,
    trace: Trace,
    seed: int,
    frame: Frame | None,
) -> Tensor:
    """Upper bound of how far the weighted value moves, `[batch]`; records the norms."""
    columns = [sources[t.source].varying.to(weights.dtype) for t in block.terms]
    for term, own in zip(block.terms, columns, strict=True):
        norm = _norm(Masked(term, weights, own), global_bound, solver)
        trace.norms[term] = norm if frame is None else replace(norm, value=frame.norm(norm.value, _sides(weights, own)))
    values = [trace.norms[t].value for t in block.terms]
    radii = [sources[t.source].region.radius for t in block.terms]
    joint = None if solver is None else _checked(solver, frame)
    found = reach(block, weights, columns, values, radii, joint, seed)
    if found.together is not None and found.weights is not None:
        trace.joint[block.node] = found.together, found.weights.T
    return DOUBLE.above(found(radii), len(radii) + 16)


def _sides(rows: Tensor, columns: Tensor) -> tuple[int, int]:
    return math.prod(rows.shape[1:]), math.prod(columns.shape[1:])


def _checked(solver: Solver, frame: Frame | None = None) -> Solver:
    """The same solver, which may not estimate, with room where there is a frame."""

    def call(masked: Masked, start: Tensor) -> Norm:
        norm = solver(masked, start)
        _require(norm.side)
        sides = _sides(masked.rows, masked.columns)
        return norm if frame is None else replace(norm, value=frame.norm(norm.value, sides))

    return call


def _norm(masked: Masked, global_bound: GlobalBound, solver: Solver | None) -> Norm:
    """A proved norm, never above the global one."""
    term = masked.map
    assert isinstance(term, Term)
    ceiling = global_bound.norms[term].expand(masked.batch)
    none = torch.zeros(masked.batch, dtype=torch.int64, device=masked.columns.device)
    if term.is_scaled_permutation:
        largest = flat(masked.rows * term.magnitude(masked.columns)).amax(1)
        value = DOUBLE.above(largest, term.roundings + 2) + term.underflow
        norm = Norm(value, Side.UPPER, masked.columns, none, torch.isfinite(value))
    elif solver is None:
        norm = Norm(ceiling, global_bound.side, masked.columns, none, torch.isfinite(ceiling))
    else:
        norm = _checked(solver)(masked, masked.columns)
    proved = norm.converged & (norm.value <= ceiling)
    return replace(norm, value=torch.where(proved, norm.value, ceiling))


def _activate(
    block: Block, z: Region, radius: Tensor, deployed: bool, known: Roundoff, frame: Frame | None
) -> MaskedRegion:
    """The region of the output. Without an activation all entries vary: if nothing else, by the centre's error.

    So does a constant that is not computed exactly.
    """
    phi = block.activation
    if phi is None:
        return MaskedRegion(_tightened(replace(z, radius=radius), frame), torch.ones_like(z.centre, dtype=torch.bool))
    region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
    error = activation_rounding(phi, region, DOUBLE)
    if deployed:
        form = block.node.rounding
        lost = activation_flushing(z, region, phi, form)
        summed = phi.summed(z)
        if summed is not None:
            lost = torch.where(summed > 0, lost + DOUBLE.above(form.gamma(8) * summed, 4), lost)
        error = error + (activation_rounding(phi, region, form) + lost)
    varying, error = phi.varying(z) | ~(error == 0), upwards(error)
    error = error if frame is None else frame.larger(error)
    known.after[block.node] = error
    radius = DOUBLE.above(radius + distance(error), 2)
    region = replace(_widened(region, error), radius=radius if frame is None else frame.radius(radius))
    return MaskedRegion(_tightened(region, frame), varying)


def _unless_lost(hidden: MaskedRegion, error: Tensor, form: Rounding) -> MaskedRegion:
    """The same, but nothing is known of images for which the value's format may overflow: NaN ignores any bound.

    error: of the value before the activation.
    """
    fits = flat(torch.isfinite(error)).all(1)
    fits = fits & flat(4 * largest(hidden.region) < form.largest).all(1)
    known = hidden.region
    lower, upper = (torch.where(spread(fits, x), x, torch.nan) for x in (known.lower, known.upper))
    radius = torch.where(fits, known.radius, torch.nan)
    return MaskedRegion(Region(known.centre, lower, upper, radius), hidden.varying | ~spread(fits, known.centre))


def _tightened(region: Region, frame: Frame | None) -> Region:
    """Box cut by ball, then ball by box, outwards."""
    radius = spread(region.radius, region.centre)
    lower = torch.fmax(region.lower, downwards(region.centre - radius))
    upper = torch.fmin(region.upper, upwards(region.centre + radius))
    lower, upper = torch.minimum(lower, region.centre), torch.maximum(upper, region.centre)
    farthest = distance(upwards(torch.maximum(upper - region.centre, region.centre - lower)))
    farthest = farthest if frame is None else frame.radius(farthest)
    return Region(region.centre, lower, upper, torch.fmin(region.radius, farthest))
