"""The points an attack may use: an L2 ball around each image, or its part in a box (docs/method.md, section 15)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.domain.pixel_range import UNIT, PixelRange
from llcert.numerics.tensors import flat, length, spread

_HAIR = 1e-6
"""Share of the radius by which points are projected inside the ball, so that rounding rarely moves them out of it."""


@dataclass(frozen=True)
class Perturbations:
    """L2 balls around images, each cut to a box or not.

    centres: the images as given, `[batch, *shape]`, pixel units. radii: `[batch]`, float64, likewise. low, high: the
    box, `[batch, *shape]`, infinite where there is none; it holds the centre. dtype: the format of points.
    """

    centres: Tensor
    radii: Tensor
    low: Tensor
    high: Tensor
    dtype: torch.dtype

    @staticmethod
    def whole(images: Tensor, radii: Tensor, dtype: torch.dtype) -> Perturbations:
        """The whole balls. images: `[batch, *shape]`; radii: `[batch]`, float64."""
        infinite = torch.full_like(images, torch.inf)
        return Perturbations(images, radii, -infinite, infinite, dtype)

    @staticmethod
    def clipped(images: Tensor, radii: Tensor, dtype: torch.dtype, pixels: PixelRange = UNIT) -> Perturbations:
        """The balls inside a pixel range; an image outside widens it for itself (`llcert.domain.region.ball`)."""
        return Perturbations(images, radii, images.clamp(max=pixels.low), images.clamp(min=pixels.high), dtype)

    @staticmethod
    def natural(images: Tensor, radii: Tensor, dtype: torch.dtype, pixels: PixelRange = UNIT) -> Perturbations:
        """The balls inside the pixel range, but the whole ball of an image that leaves it: its range is not known."""
        free, cut = Perturbations.whole(images, radii, dtype), Perturbations.clipped(images, radii, dtype, pixels)
        inside = spread(pixels.holds(images), images)
        low, high = torch.where(inside, cut.low, free.low), torch.where(inside, cut.high, free.high)
        return Perturbations(images, radii, low, high, dtype)

    def select(self, images: Tensor) -> Perturbations:
        """The sets of some images; images: a mask or an index."""
        return replace(
            self,
            centres=self.centres[images],
            radii=self.radii[images],
            low=self.low[images],
            high=self.high[images],
        )

    @property
    def start(self) -> Tensor:
        """The images, in the format of the points."""
        return self.centres.to(self.dtype)

    def contains(self, points: Tensor) -> Tensor:
        """Whether each point lies in its set, boolean `[batch]`; never true of a point outside, nor of NaN.

        points: `[batch, *shape]`. Distances are computed in float64 and rounded up.
        """
        offset = points.double() - self.centres.double()
        slack = (offset[:1].numel() + 8) * torch.finfo(torch.float64).eps
        near = length(offset) * (1 + slack) <= self.radii
        return near & flat((points >= self.low) & (points <= self.high)).all(1)

    def project(self, points: Tensor) -> Tensor:
        """The nearest point of a ball that is a little smaller, then of the box, in the format of the points.

        The box holds the centre, so that the second projection stays in the ball. points: `[batch, *shape]`.
        """
        offset = points - self.centres
        size, aimed = spread(length(offset), offset), spread(self._aimed, offset).to(offset.dtype)
        offset = torch.where(size > aimed, offset * (aimed / size), offset)
        return torch.minimum(torch.maximum(self.centres + offset, self.low), self.high).to(self.dtype)

    def random(self, seeds: Tensor) -> Tensor:
        """A random point of each set, in a uniform direction at a uniform distance, then projected.

        seeds: `[batch]`; a point depends on its own seed alone.
        """
        generator, size = torch.Generator(), torch.empty(len(self.centres))
        noise = torch.empty(self.centres.shape, dtype=torch.float32)
        for i, seed in enumerate(seeds.tolist()):
            noise[i].normal_(generator=generator.manual_seed(seed))
            size[i].uniform_(generator=generator)
        noise, size = (t.to(self.centres.device, self.centres.dtype) for t in (noise, size))
        size = size * self.radii.to(size.dtype)
        return self.project(self.centres + noise * spread(size / length(noise), noise))

    @property
    def _aimed(self) -> Tensor:
        """The radii of the smaller balls, `[batch]`: less by what the rounding of coordinates may add."""
        unit = max(torch.finfo(dtype).eps for dtype in (self.centres.dtype, self.dtype))
        coarse = unit * flat(self.centres).abs().amax(1).double()
        return (self.radii * (1 - _HAIR) - coarse).clamp(min=0)
