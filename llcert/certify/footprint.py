"""How much memory a batch takes, by the sizes of a program's values: rough, and checked by benchmarks/memory.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llcert.bounds.dual import Backward
from llcert.program import Program

_REGIONS = 16  # tensors of the size of every value that a forward pass of bounds keeps or makes at once
_MARGINS = 8  # tensors of classes times the last hidden value that a margin makes at once
_CARRIED = 20  # tensors of the size of all carried rows that an ascent on them makes at once


@dataclass(frozen=True)
class Footprint:
    """image: bytes that grow with every image. carried: bytes of the rows of one image that a backward pass carries,
    most: of all rows that it carries at a time."""

    image: int
    carried: int
    most: int

    @staticmethod
    def of(program: Program, *, proved: bool) -> Footprint:
        """proved: whether bounds are computed again in float64."""
        width = 8 if proved else torch.finfo(program.dtype).bits // 8
        last = sum(_size(term.columns) for term in program.blocks[-1].terms)
        entries = sum(_size(block.pre.shape) for block in program.blocks)
        return Footprint(
            width * (_REGIONS * program.entries + _MARGINS * program.classes * last + _scratch(program)),
            width * _CARRIED * program.classes * entries,
            width * _CARRIED * Backward(program).rows_at_once * entries,
        )

    def bytes(self, images: int) -> int:
        """What so many images take at most, whatever the stage."""
        return images * self.image + min(images * self.carried, self.most)


def _scratch(program: Program) -> int:
    return max(block.scratch for block in program.blocks)


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
