"""Batches that do not fit into memory: computed in parts, as small as they must be and no smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.machine.memory import free_memory, out_of_memory, release

T = TypeVar("T")


_SHARE = 0.5
"""Of the free memory, what a part may take by its estimate: where a host's runs out, processes may just be killed."""


def _no_bytes(images: int) -> int:
    return 0


@dataclass
class MemoryBudget:
    """How many images each computation may hold at a time: by an estimate, and by what failed before.

    device: whose memory it is. bytes: estimate of what so many images take. most: images that a computation may hold,
    by its name; noted where it failed.
    """

    device: torch.device
    bytes: Callable[[int], int] = _no_bytes
    most: dict[str, int] = field(default_factory=dict)

    def split(self, name: str, images: Tensor) -> tuple[Tensor, ...]:
        """Indices of images in parts that should fit."""
        size, free = min(self.most.get(name, len(images)), len(images)), _SHARE * free_memory(self.device)
        while size > 1 and self.bytes(size) > free:
            size = (size + 1) // 2
        return images.split(max(size, 1))

    def tried(self, name: str, indices: Tensor, compute: Callable[[], T], *, last_resort: bool = True) -> tuple[T, ...]:
        """What is computed of some images, alone in a tuple; an empty one where it has to be done with less memory.

        indices: of the images in the data set. last_resort: whether there is nothing that the caller could free, nor
        fewer images than one: then InvalidInput is raised where a single image does not fit.
        """
        alone = len(indices) == 1 and last_resort
        for _ in range(2 if alone else 1):
            try:
                return (compute(),)
            except (RuntimeError, MemoryError, OSError) as error:
                if not out_of_memory(error):
                    raise
            # outside the handler, which keeps the failed computation's tensors alive
            release(self.device)
        if alone:
            raise InvalidInput(self._too_large(name, int(indices[0])))
        self.most[name] = max(len(indices) // 2, 1)
        return ()

    def parts(self, name: str, indices: Tensor, compute: Callable[[Tensor], T]) -> list[T]:
        """What is computed of some images, part by part in their order; compute: for positions among them.

        Raises InvalidInput where a single image does not fit.
        """
        found: list[T] = []
        waiting = [torch.arange(len(indices), device=indices.device)]
        while waiting:
            here, *rest = self.split(name, waiting.pop(0))
            part = self.tried(name, indices[here], partial(compute, here))
            found += part
            waiting[:0] = rest if part else [here, *rest]
        return found

    def _too_large(self, name: str, index: int) -> str:
        other = " or --device cpu" if self.device.type == "cuda" else ""
        return (
            f"image {index} alone does not fit into the memory of {self.device.type} (at {name}): fewer --stages, "
            f"--assurance estimate{other} may help"
        )
