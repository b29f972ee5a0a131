"""Regions: a box and an L2 ball around one centre that contain a value while the image ranges over its own ball.

Also pixel ranges, and Euclidean norms that neither overflow nor underflow. docs/method.md, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from llcert.domain.layout import flat
from llcert.errors import InvalidInput
from llcert.numerics import gradients
from llcert.numerics.gradients import maximum, minimum


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

    @property
    def batch(self) -> int:
        return self.centre.shape[0]

    @property
    def deviation(self) -> Tensor:
        """Upper bound of `|z_i - centre_i|` over the box, `[batch, *shape]`."""
        return maximum(self.upper - self.centre, self.centre - self.lower)

    def box_to_ball(self) -> Region:
        """The same set, its radius cut to the farthest corner of its box (docs/method.md, section 3)."""
        return replace(self, radius=minimum(self.radius, length(self.deviation)))

    def ball_to_box(self) -> Region:
        """The same set, its box intersected with the box around its ball."""
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

    def select(self, images: Tensor) -> Region:
        """The regions of some images of the batch; `images` is a mask or an index, `[batch]`."""
        return Region(self.centre[images], self.lower[images], self.upper[images], self.radius[images])

    def contains(self, values: Tensor, *, slack: float) -> Tensor:
        """Whether each value lies in box and ball up to a relative slack, `[batch]`.

        Where the region is NaN or its centre has overflowed, nothing is claimed and every value is inside; elsewhere a
        NaN value is outside.

        values: `[batch, *shape]`. slack: dimensionless, times the size of each bound, and of the centre, plus one.
        """
        allowance = slack * (1 + self.centre.abs())
        unknown = ~torch.isfinite(self.centre)
        above = (values >= self.lower - slack * self.lower.abs() - allowance) | self.lower.isnan() | unknown
        below = (values <= self.upper + slack * self.upper.abs() + allowance) | self.upper.isnan() | unknown
        allowed = self.radius + length(allowance)
        near = (length(values - self.centre) <= allowed) | ~torch.isfinite(allowed)
        return flat(above & below).all(1) & near


def spread(per_image: Tensor, like: Tensor) -> Tensor:
    """`[batch]` reshaped to `[batch, 1, ...]` so that it broadcasts against `like`."""
    return per_image.reshape(-1, *[1] * (like.ndim - 1))


def channels_last(x: Tensor) -> Tensor:
    """The same values in the memory layout that convolutions on a CPU are fastest with; unchanged on other devices."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 and x.device.type == "cpu" else x


_MODERATE = (1e-140, 1e140)
"""Between these norms, no square that matters overflows or underflows in float64."""


def length(x: Tensor, start: int = 1) -> Tensor:
    """The Euclidean norm over the axes from `start` on, summed in float64: no square underflows or overflows.

    Squares of float32 numbers fit float64. Float64 numbers are scaled by a power of two, which is exact, unless all
    norms are far from the ends of the range (tested on the CPU alone: on a GPU the test would wait for the device).
    """
    if x.dtype != torch.float64 and x.ndim > start:
        return gradients.length(x, start)
    entries = flat(x, start)
    if entries.numel() == 0:
        return torch.linalg.vector_norm(entries, dim=-1)
    if x.device.type == "cpu":
        plain = torch.linalg.vector_norm(entries, dim=-1)
        least, largest = plain.detach().aminmax()
        if _MODERATE[0] < float(least) and float(largest) < _MODERATE[1]:
            return plain
    exponent = torch.frexp(entries.detach().abs().amax(-1, keepdim=True)).exponent.clamp(-1000, 1000)
    scale = torch.ldexp(torch.ones_like(exponent, dtype=x.dtype), -exponent)
    return torch.linalg.vector_norm(entries * scale, dim=-1) / scale[..., 0]


@dataclass(frozen=True)
class PixelRange:
    """The values a pixel may have, both ends included, in pixel units.

    low, high: finite, low < high, rounded outwards from the numbers as they were written. texts: these, as text.
    """

    low: float = 0.0
    high: float = 1.0
    texts: tuple[str, str] = ("0", "1")

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise InvalidInput(
                f"a pixel range from {self.low} to {self.high}: give finite numbers, the lower one first"
            )

    @staticmethod
    def of(low: str, high: str) -> PixelRange:
        """The range between two fractions or decimals, rounded outwards."""
        ends = Fraction(low), Fraction(high)
        nearest = float(ends[0]), float(ends[1])
        below, above = math.nextafter(nearest[0], -math.inf), math.nextafter(nearest[1], math.inf)
        outwards = (
            nearest[0] if nearest[0] <= ends[0] else below,
            nearest[1] if nearest[1] >= ends[1] else above,
        )
        return PixelRange(*outwards, (low, high))

    @property
    def words(self) -> str:
        """For people: `[0, 1]`."""
        return f"[{', '.join(self.texts)}]"

    def covers(self, low: float, high: float) -> bool:
        """Whether values from `low` to `high` lie within the range."""
        return self.low <= low <= high <= self.high

    def clip(self, points: Tensor) -> Tensor:
        """The nearest points within the range."""
        return points.clamp(self.low, self.high)

    def cut(self, region: Region) -> Region:
        """The same region, its box cut to the range; the centre stays inside."""
        lower, upper = region.lower.clamp(min=self.low), region.upper.clamp(max=self.high)
        lower, upper = torch.minimum(lower, region.centre), torch.maximum(upper, region.centre)
        return replace(region, lower=lower, upper=upper)

    def holds(self, images: Tensor) -> Tensor:
        """Whether all pixels of each image lie within the range, `[batch]`; NaN does not."""
        exact = images.double()
        return flat((exact >= self.low) & (exact <= self.high)).all(1)


UNIT = PixelRange()
"""The default pixel range."""


def ball(images: Tensor, eps: float | Tensor, *, within: PixelRange | None = None) -> Region:
    """The L2 ball of radius `eps` around each image, as the region of the network's input.

    images: `[batch, *shape]`, pixel units. eps: radius in pixel units, a number or `[batch]`.
    within: intersect the box with a range of pixels, which holds the images (the ball keeps its centre).
    """
    radius = torch.as_tensor(eps, dtype=images.dtype, device=images.device).expand(images.shape[0])
    region = Region(images, images - spread(radius, images), images + spread(radius, images), radius)
    return region if within is None else within.cut(region)
