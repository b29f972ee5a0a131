"""Batches that do not fit into memory are computed in parts."""

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
"""Share of the free memory that a part may take by its estimate: a host that runs out may kill the process."""


def _no_bytes(images: int) -> int:
    return 0


@dataclass
class MemoryBudget:
    """How many images a computation may hold at a time, by an estimate and by what ran out of memory before.

    device: whose memory it is. bytes: estimate of the bytes of so many images. most: the number of images that each
    computation, by its name, may hold; entered where more of them ran out of memory.
    """

    device: torch.device
    bytes: Callable[[int], int] = _no_bytes
    most: dict[str, int] = field(default_factory=dict)

    def split(self, name: str, images: Tensor) -> tuple[Tensor, ...]:
        """The images in parts that should fit into memory. name: of the computation. images: index, `[images]`."""
        size, free = min(self.most.get(name, len(images)), len(images)), _SHARE * free_memory(self.device)
        while size > 1 and self.bytes(size) > free:
            size = (size + 1) // 2
        return images.split(max(size, 1))

    def tried(self, name: str, indices: Tensor, compute: Callable[[], T], *, last_resort: bool = True) -> tuple[T, ...]:
        """The result of a computation in a tuple of one; an empty tuple where it ran out of memory.

        name: of the computation. indices: of its images in the data set. last_resort: whether the caller has nothing
        left to free: then a single image is tried once more, and InvalidInput is raised where it does not fit.
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
        """The results of a computation, part by part in the order of the images.

        name: of the computation. indices: of the images in the data set. compute: for a part, given the positions of
        its images. Raises InvalidInput where a single image does not fit.
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
