"""Regions rounded outwards: of the image, of a block's value, of its activation (docs/method.md, section 12).

They hold the values of the network in real numbers, and where asked also what any evaluation of it computes, every
value in its own format, sums in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from llcert.bounds.forward.box import Hidden
from llcert.bounds.forward.roundoff import BlockRoundoff, Passage, distance, flushed, inexact, largest
from llcert.bounds.forward.slack import TIGHT, Slack
from llcert.domain.pixel_range import PixelRange
from llcert.domain.region import Region
from llcert.ir import Activation, Node
from llcert.numerics.rounding import DOUBLE, Rounding, downwards, upwards
from llcert.numerics.tensors import flat, spread
from llcert.program import Block


def enclosing_ball(
    images: Tensor, eps: float | Tensor, *, within: PixelRange | None = None, deployed: Rounding | None = None
) -> Region:
    """What reaches the network from the L2 ball around each image, rounded outwards: every point of the ball, and the
    number of the deployed format that it is rounded to (Lemma 0).

    images: `[batch, *shape]`, the float64 numbers nearest to those of the file, which may be off by a rounding. eps:
    not below the radius, a number or `[batch]`. within: counts only points of the ball in a range of pixels, which
    holds the images.
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
    block: Block, sources: Mapping[Node, Hidden], *, deployed: bool, slack: Slack = TIGHT
) -> tuple[Region, BlockRoundoff]:
    """The box of a block's value before its activation, and the errors of that value (Lemmas 2 and 3).

    deployed: whether it holds what evaluations of the network compute, besides its values in real numbers. slack: what
    is added for a checker. Raises ValueError for sources that are not in float64.
    """
    if any(h.region.centre.dtype != torch.float64 for h in sources.values()):
        raise ValueError("a proof is computed in float64")
    passage = Passage.of(block, {s: h.region for s, h in sources.items()})
    error, z = passage.error(), slack.box(block, sources)
    z = widened(z, slack.box_error(error, passage.size))
    if deployed:
        more = slack.error(passage.deployed(largest(z), slack.products))
        z, error = widened(z, more), upwards(error + more)
    nothing = error.new_zeros(()).expand_as(error)  # what the activation adds comes later
    return z, BlockRoundoff(passage.size, passage.total, error, nothing, torch.zeros_like(passage.total))


def activation_image(
    block: Block, z: Region, radius: Tensor, roundoff: BlockRoundoff, *, deployed: bool, slack: Slack = TIGHT
) -> tuple[Hidden, Tensor]:
    """Region and mask of a block's output, and the errors of it beyond those of z, `[batch, *shape]` (Lemma 5).

    Without an activation all entries vary: if nothing else, by the centre's error. So does a constant that is not
    computed exactly. deployed, slack: as for `affine_image`.
    """
    phi = block.activation
    if phi is None:
        region, error = replace(z, radius=radius), z.centre.new_zeros(()).expand_as(z.centre)
        varying = torch.ones_like(z.centre, dtype=torch.bool)
    else:
        region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
        error = _activation_error(phi, z, region, block.node.rounding if deployed else None)
        varying, error = phi.varying(z) | ~(error == 0), slack.error(upwards(error))
        radius = slack.radius(DOUBLE.above(radius + distance(error), 2))
        region = replace(widened(region, error), radius=radius)
    hidden = Hidden(_tightened(region, slack), varying)
    return _unless_overflown(hidden, roundoff.error, block.node.rounding) if deployed else hidden, error


def _activation_error(phi: Activation, z: Region, values: Region, form: Rounding | None) -> Tensor:
    """What evaluations of an activation err over a region: in float64, and in a deployed format where there is one."""
    error = inexact(phi, values, DOUBLE)
    if form is None:
        return error
    lost, summed = flushed(z, values, phi, form), phi.summed(z)
    if summed is not None:
        lost = torch.where(summed > 0, lost + DOUBLE.above(form.gamma(8) * summed, 4), lost)
    return error + inexact(phi, values, form) + lost


def widened(z: Region, error: Tensor) -> Region:
    """A region whose box is wider by an error on all sides, rounded outwards; the centre stays inside."""
    lower, upper = downwards(z.lower - error), upwards(z.upper + error)
    return replace(z, lower=torch.minimum(lower, z.centre), upper=torch.maximum(upper, z.centre))


def _tightened(region: Region, slack: Slack) -> Region:
    """Box cut by ball, then ball by box, rounded outwards (Proposition 3.5)."""
    radius = spread(region.radius, region.centre)
    lower = torch.fmax(region.lower, downwards(region.centre - radius))
    upper = torch.fmin(region.upper, upwards(region.centre + radius))
    lower, upper = torch.minimum(lower, region.centre), torch.maximum(upper, region.centre)
    farthest = slack.radius(distance(upwards(torch.maximum(upper - region.centre, region.centre - lower))))
    return Region(region.centre, lower, upper, torch.fmin(region.radius, farthest))


def _unless_overflown(hidden: Hidden, error: Tensor, form: Rounding) -> Hidden:
    """The same, but nothing is known of images for which the value's format may overflow: NaN ignores any bound.

    error: of the value before the activation.
    """
    fits = flat(torch.isfinite(error)).all(1)
    fits = fits & flat(4 * largest(hidden.region) < form.largest).all(1)
    known = hidden.region
    lower, upper = (torch.where(spread(fits, x), x, torch.nan) for x in (known.lower, known.upper))
    radius = torch.where(fits, known.radius, torch.nan)
    return Hidden(Region(known.centre, lower, upper, radius), hidden.varying | ~spread(fits, known.centre))
