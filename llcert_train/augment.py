"""Random crops and flips of training images, all of a batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.errors import InvalidInput
from llcert_train.data import generator
from llcert_train.settings import Recipe


@dataclass(frozen=True)
class Augmentation:
    """What is done to each training image, at random and each on its own.

    crop: pixels of zeros put around an image before a window of its own size is cut out of it; 0 does not crop.
    flip: whether left and right are exchanged, in one case of two.
    Raises InvalidInput for a crop below 0.
    """

    crop: int = 0
    flip: bool = False

    @staticmethod
    def of(recipe: Recipe) -> Augmentation:
        """The recipe's; nothing where it leaves that open."""
        return Augmentation(recipe.crop or 0, bool(recipe.flip))

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise InvalidInput(f"crop {self.crop}: give 0 or a number of pixels")

    def __call__(self, images: Tensor, *, seed: int, step: int) -> Tensor:
        """Changed copies of images `[batch, channels, height, width]`, or the very same tensor where nothing is asked.

        What is drawn is a function of seed, step and batch size alone, so every device and a resumed run draw alike.
        Raises InvalidInput for images of another shape, or with a side not larger than `crop`.
        """
        if not (self.crop or self.flip):
            return images
        self.check(images.shape)
        count, channels, height, width = images.shape
        tops, lefts, mirrored = self._drawn(count, seed=seed, step=step).to(images.device).unsqueeze(-1)
        down, right = (torch.arange(side, device=images.device) for side in (height, width))
        rows = tops + down
        columns = lefts + torch.where(mirrored == 1, width - 1 - right, right)
        padded = F.pad(images, (self.crop,) * 4) if self.crop else images
        each, every = (torch.arange(size, device=images.device) for size in (count, channels))
        return padded[each[:, None, None, None], every[:, None, None], rows[:, None, :, None], columns[:, None, None]]

    def check(self, shape: Sequence[int]) -> None:
        """Nothing, where images `[batch, *shape]` can be augmented; InvalidInput elsewhere. shape: of a batch."""
        shape = list(shape)
        if not (self.crop or self.flip):
            return
        if len(shape) != 4:
            raise InvalidInput(f"crop and flip need [batch, channels, height, width], not images of {shape}")
        if self.crop >= min(shape[2:]):
            raise InvalidInput(f"crop {self.crop}: images of {shape[2]} x {shape[3]} pixels need one below both sides")

    def _drawn(self, count: int, *, seed: int, step: int) -> Tensor:
        """int64 `[3, count]` on the CPU: the window's top and left edge in the padded image, and 1 where flipped."""
        source = generator("augmentation", seed=seed, number=step)
        edges = torch.randint(2 * self.crop + 1, (2, count), generator=source)
        coins = torch.randint(2, (1, count), generator=source)
        return torch.cat((edges, coins if self.flip else torch.zeros_like(coins)))
