"""Regions rounded outwards: of the image, of a block's value before its activation, and of its output (docs/method.md,
section 12, lemmas 0, 2, 3 and 5).

They contain the values of the network in real numbers and, where `deployed`, of every deployed evaluation: each node
in its own number format, sums in any order. For the verified arithmetic, and for evaluations at single points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from llcert.bounds.forward.further_error import further_error
from llcert.bounds.forward.roundoff import (
    BlockRoundoff,
    BlockSizes,
    activation_flushing,
    activation_rounding,
    distance,
    largest,
)
from llcert.bounds.forward.slack import TIGHT, Slack
from llcert.domain.pixel_range import PixelRange
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Activation, Node
from llcert.numerics.rounding import DOUBLE, Rounding, downwards, upwards
from llcert.numerics.tensors import flat, spread
from llcert.program import Block


def enclosing_ball(
    images: Tensor, eps: float | Tensor, *, within: PixelRange | None = None, deployed: Rounding | None = None
) -> Region:
    """The region of the input for the L2 ball around each image, rounded outwards: it contains every point of the ball,
    and what the point is rounded to in the deployed format (Lemma 0).

    images: `[batch, *shape]`, the float64 numbers nearest to the file's. eps: at least the radius, a number or
    `[batch]`. within: a pixel range that holds the images, to which the box of the ball is clamped. deployed: the
    format of the network's input; None: real numbers alone.
    """
    radius = torch.as_tensor(eps, dtype=torch.float64, device=images.device).expand(len(images))
    lower, upper = downwards(images - spread(radius, images)), upwards(images + spread(radius, images))
    region = Region(images, lower, upper, radius)
    region = region if within is None else region.clamped(within.low, within.high)
    lost = DOUBLE.nearest(images.abs())
    if deployed is not None:
        lost = DOUBLE.above(lost + deployed.nearest(torch.maximum(region.lower.abs(), region.upper.abs()) + lost), 4)
    return widened(replace(region, radius=DOUBLE.above(radius + distance(lost), 2)), lost)


def affine_image(
    block: Block, sources: Mapping[Node, MaskedRegion], *, deployed: bool, slack: Slack = TIGHT
) -> tuple[Region, BlockRoundoff]:
    """The region of a block's value before its activation, and the rounding errors of that value (Lemmas 2 and 3).

    Without a radius. deployed: whether it contains deployed values, too. slack: what is added for a checker. Raises
    ValueError for sources that are not in float64.
    """
    if any(h.region.centre.dtype != torch.float64 for h in sources.values()):
        raise ValueError("a proof is computed in float64")
    sizes = BlockSizes.of(block, {s: h.region for s, h in sources.items()})
    float64, z = sizes.float64_error(), slack.box(block, sources)
    z, error = widened(z, slack.box_error(float64, sizes.size)), float64
    if deployed:
        more = slack.error(sizes.deployed_error(largest(z), slack.products))
        z, error = widened(z, more), upwards(error + more)
    nothing, none = error.new_zeros(()).expand_as(error), torch.zeros_like(sizes.total)  # the activation's come later
    return z, BlockRoundoff(sizes.size, sizes.total, float64, error, error, none, nothing, none)


def around_centre(
    block: Block, sources: Mapping[Node, MaskedRegion], z: Region, roundoff: BlockRoundoff, slack: Slack = TIGHT
) -> BlockRoundoff:
    """The rounding errors of a deployed block, with those at the centres of its sources, and how much longer they are
    elsewhere in the balls (Lemma 3a). z: the region before the activation. slack: as for `affine_image`."""
    regions = {s: h.region for s, h in sources.items()}
    value = DOUBLE.above(z.centre.abs() + roundoff.float64)
    more = slack.error(BlockSizes.at_centre(block, regions).deployed_error(value, slack.products))
    further = further_error(block, {s: r.radius for s, r in regions.items()}, slack.products)
    return replace(roundoff, centre_error=upwards(roundoff.float64 + more), further_error=further)


def activation_image(
    block: Block, z: Region, radius: Tensor, roundoff: BlockRoundoff, *, deployed: bool, slack: Slack = TIGHT
) -> tuple[MaskedRegion, BlockRoundoff]:
    """Region and mask of a block's output, and its rounding errors, those of the activation included (Lemma 5).

    Without an activation all entries vary, as the centre has rounding errors; so do constants that are not computed
    exactly. z: the region before the activation. radius: of the weighted z, `[batch]`. deployed, slack: as for
    `affine_image`.
    """
    phi = block.activation
    if phi is None:
        region, varying = replace(z, radius=radius), torch.ones_like(z.centre, dtype=torch.bool)
    else:
        region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
        float64 = activation_rounding(phi, region, DOUBLE)
        error = float64 + _deployed_activation_error(phi, z, region, block.node.rounding) if deployed else float64
        varying, error = phi.varying(z) | ~(error == 0), slack.error(upwards(error))
        lost = distance(error) + distance(float64) if deployed else distance(error)
        roundoff = replace(roundoff, activation_error=error, slip=DOUBLE.above(roundoff.slip + lost, 4))
        radius = slack.radius(DOUBLE.above(radius + distance(error), 2))
        region = replace(widened(region, error), radius=radius)
    hidden = MaskedRegion(_tightened(region, slack), varying)
    return _unless_overflown(hidden, roundoff.error, block.node.rounding) if deployed else hidden, roundoff


def _deployed_activation_error(phi: Activation, z: Region, values: Region, form: Rounding) -> Tensor:
    """Bounds of the errors of an activation over a region in the deployed format."""
    lost, summed = activation_flushing(z, values, phi, form), phi.summed(z)
    if summed is not None:
        differs = DOUBLE.above(form.gamma(8) * summed, 4) + 4 * form.tiny  # roundings, and a difference that is flushed
        lost = torch.where(summed > 0, lost + differs, lost)
        lost = torch.where(4 * summed < form.largest, lost, torch.inf)
    return activation_rounding(phi, values, form) + lost


def widened(z: Region, error: Tensor) -> Region:
    """A region whose box is wider by an error on all sides, rounded outwards; the centre stays inside."""
    lower, upper = downwards(z.lower - error), upwards(z.upper + error)
    return replace(z, lower=torch.minimum(lower, z.centre), upper=torch.maximum(upper, z.centre))


def _tightened(region: Region, slack: Slack) -> Region:
    """The box intersected with that of the ball, then the radius lowered to that of the box, rounded outwards
    (Proposition 3.5)."""
    radius = spread(region.radius, region.centre)
    lower = torch.fmax(region.lower, downwards(region.centre - radius))
    upper = torch.fmin(region.upper, upwards(region.centre + radius))
    lower, upper = torch.minimum(lower, region.centre), torch.maximum(upper, region.centre)
    farthest = slack.radius(distance(upwards(torch.maximum(upper - region.centre, region.centre - lower))))
    return Region(region.centre, lower, upper, torch.fmin(region.radius, farthest))


def _unless_overflown(hidden: MaskedRegion, error: Tensor, form: Rounding) -> MaskedRegion:
    """The same, but NaN for images for which the format of the value may overflow: nothing is known of these.

    error: of the value before the activation; infinite where that may overflow.
    """
    fits = flat(torch.isfinite(error)).all(1)
    fits = fits & flat(4 * largest(hidden.region) < form.largest).all(1)
    known = hidden.region
    lower, upper = (torch.where(spread(fits, x), x, torch.nan) for x in (known.lower, known.upper))
    radius = torch.where(fits, known.radius, torch.nan)
    return MaskedRegion(Region(known.centre, lower, upper, radius), hidden.varying | ~spread(fits, known.centre))
