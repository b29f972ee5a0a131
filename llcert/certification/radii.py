"""The radii of the balls: one for all images or one for each, and how they are rounded up for proofs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.errors import InvalidInput


@dataclass(frozen=True)
class Radii:
    """A radius for each image, in pixel units, finite and >= 0.

    values: of the images from index `first` of the data set on. texts: the same numbers as the user wrote them, exact
    where `values` are rounded; empty where they were not given as text.
    """

    values: tuple[float, ...]
    texts: tuple[str, ...] = ()
    first: int = 0

    def __post_init__(self) -> None:
        if self.texts and len(self.texts) != len(self.values):
            raise ValueError(f"{len(self.values)} radii in {len(self.texts)} texts")
        for number, value in enumerate(self.values):
            if not 0 <= value < math.inf:
                raise InvalidInput(f"the radius of image {self.first + number} must be finite and >= 0, not {value}")

    def part(self, first: int, last: int) -> Radii:
        """The radii of the images `first` to `last` - 1."""
        chosen = slice(first - self.first, last - self.first)
        return Radii(self.values[chosen], self.texts[chosen], first)

    def place(self, index: int) -> int:
        """The position of an image's radius in `values`. Raises InvalidInput for an image that has none."""
        place = index - self.first
        if not 0 <= place < len(self.values):
            raise InvalidInput(f"image {index} has no radius; {len(self.values)} are known from {self.first} on")
        return place


Eps = float | Radii
"""A radius for all images, or one for each."""


def radii_of(eps: Eps, indices: Tensor) -> Tensor:
    """The radius of each image, `[batch]`, float64. indices: of the images in the data set."""
    if isinstance(eps, Radii):
        found = [eps.values[eps.place(i)] for i in indices.tolist()]
        return torch.tensor(found, dtype=torch.float64, device=indices.device)
    return torch.full((len(indices),), eps, dtype=torch.float64, device=indices.device)


def above(radii: Tensor) -> Tensor:
    """The next larger float64 numbers: upper bounds of radii that were rounded to nearest; 0 stays 0."""
    return torch.where(radii > 0, torch.nextafter(radii, torch.full_like(radii, math.inf)), radii)
