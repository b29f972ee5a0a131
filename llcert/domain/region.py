"""Regions: a box and an L2 ball around one centre that contain a value while the image ranges over its own ball.

The forward propagation (`llcert.bounds.propagate`) finds one for every value; docs/method.md, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.domain.pixel_range import PixelRange
from llcert.numerics.gradients import maximum, minimum
from llcert.numerics.tensors import flat, length, spread


@dataclass(frozen=True)
class Region:
    """An outer bound of a set of values: `lower <= z <= upper` elementwise and `||z - centre||_2 <= radius`.

    centre, lower, upper: `[batch, *shape]`, in the units of the value. radius: `[batch]`, same units.
    Every field bounds the set from outside, in exact arithmetic: the methods here do not bound their rounding errors.
    A NaN anywhere means that nothing is known.
    """

    centre: Tensor
    lower: Tensor
    upper: Tensor
    radius: Tensor

    @staticmethod
    def point(values: Tensor) -> Region:
        """The region of one value for each image. values: `[batch, *shape]`."""
        return Region(values, values, values, values.new_zeros(len(values)))

    @property
    def batch(self) -> int:
        return self.centre.shape[0]

    @property
    def deviation(self) -> Tensor:
        """Upper bound of `|z_i - centre_i|` over the box, `[batch, *shape]`."""
        return maximum(self.upper - self.centre, self.centre - self.lower)

    def box_to_ball(self) -> Region:
        """The same set, its radius at most the distance of the farthest corner of its box (Proposition 3.5)."""
        return replace(self, radius=minimum(self.radius, length(self.deviation)))

    def ball_to_box(self) -> Region:
        """The same set, its box intersected with the box around its ball (docs/method.md, Proposition 3.5)."""
        radius = spread(self.radius, self.centre)
        return replace(
            self,
            lower=maximum(self.lower, self.centre - radius),
            upper=minimum(self.upper, self.centre + radius),
        )

    def within(self, lower: Tensor, upper: Tensor) -> Region:
        """The same set, its box intersected with another box that contains it; the centre stays inside.

        NaN in the other box changes nothing, and where nothing is known here, nothing is known afterwards.
        """
        lower = torch.where(self.lower.isnan(), self.lower, torch.fmax(self.lower, lower))
        upper = torch.where(self.upper.isnan(), self.upper, torch.fmin(self.upper, upper))
        return replace(self, lower=torch.minimum(lower, self.centre), upper=torch.maximum(upper, self.centre))

    def clamped(self, low: float, high: float) -> Region:
        """The same set, its box intersected with the range from `low` to `high`; the centre stays inside."""
        lower, upper = self.lower.clamp(min=low), self.upper.clamp(max=high)
        lower, upper = torch.minimum(lower, self.centre), torch.maximum(upper, self.centre)
        return replace(self, lower=lower, upper=upper)

    def select(self, images: Tensor) -> Region:
        """The regions of some images of the batch; `images` is a mask or an index, `[batch]`."""
        return Region(self.centre[images], self.lower[images], self.upper[images], self.radius[images])

    def contains(self, values: Tensor, *, tolerance: float) -> Tensor:
        """Whether each value lies in box and ball up to a relative tolerance, `[batch]`.

        Where the region is NaN or its centre has overflowed, nothing is claimed and every value is inside; elsewhere a
        NaN value is outside.

        values: `[batch, *shape]`. tolerance: dimensionless, times the size of each bound, and of the centre, plus one.
        """
        allowance = tolerance * (1 + self.centre.abs())
        unknown = ~torch.isfinite(self.centre)
        above = (values >= self.lower - tolerance * self.lower.abs() - allowance) | self.lower.isnan() | unknown
        below = (values <= self.upper + tolerance * self.upper.abs() + allowance) | self.upper.isnan() | unknown
        allowed = self.radius + length(allowance)
        near = (length(values - self.centre) <= allowed) | ~torch.isfinite(allowed)
        return flat(above & below).all(1) & near


@dataclass(frozen=True)
class MaskedRegion:
    """The region of a value, and its mask: which entries may vary over the region, boolean `[batch, *shape]`.

    Entries that do not vary have the value of the region's centre.
    """

    region: Region
    varying: Tensor

    @property
    def mask(self) -> Tensor:
        """`varying` as zeros and ones in the type of the region."""
        return self.varying.to(self.region.centre.dtype)

    def select(self, images: Tensor) -> MaskedRegion:
        """The regions and masks of some images; images: mask or index."""
        return MaskedRegion(self.region.select(images), self.varying[images])


def ball(images: Tensor, eps: float | Tensor, *, within: PixelRange | None = None) -> Region:
    """The L2 ball of radius `eps` around each image, as the region of the network's input.

    images: `[batch, *shape]`, pixel units. eps: radius in pixel units, a number or `[batch]`.
    within: a pixel range that holds the images; the box is intersected with it, the ball keeps its centre.
    """
    radius = torch.as_tensor(eps, dtype=images.dtype, device=images.device).expand(images.shape[0])
    region = Region(images, images - spread(radius, images), images + spread(radius, images), radius)
    return region if within is None else region.clamped(within.low, within.high)
