"""Estimates of the memory that the bounds of a batch take, and the batch size that follows from them.

By the sizes of the program's values; benchmarks/memory.py compares the estimates with what is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llcert.bounds.backward.crown import Backward
from llcert.errors import InvalidInput
from llcert.machine.memory import free_memory
from llcert.program import Program

_REGIONS = 16  # tensors of the size of every value that a forward pass holds at once
_MARGINS = 8  # tensors of classes times the last hidden value that a margin holds at once
_ROWS = 20  # tensors of the size of all rows of a backward pass that an ascent holds at once

_LARGEST_BATCH = 256
_KEPT = 16  # tensors of the size of every value that the evidence of an image keeps: two forward passes
_SHARE = 0.25  # of the free memory, what a batch may take


@dataclass(frozen=True)
class Footprint:
    """Estimates of the memory of a batch, in bytes.

    image: of forward passes and margins, for each image. rows: of the rows of a backward pass, for each image. most: of
    all rows that are computed together, whatever the number of images.
    """

    image: int
    rows: int
    most: int

    @staticmethod
    def of(program: Program, *, proved: bool, evidence: bool = False) -> Footprint:
        """The estimates for a program. proved: whether bounds are computed in float64, too. evidence: whether proofs
        are kept until the batch is done, as for a certificate folder; parts of branch covers are not counted."""
        width = 8 if proved else torch.finfo(program.dtype).bits // 8
        last = sum(_size(term.columns) for term in program.blocks[-1].terms)
        entries = sum(_size(block.pre.shape) for block in program.blocks)
        work = _REGIONS * program.entries + _MARGINS * program.classes * last + _scratch(program)
        return Footprint(
            width * (work + (_evidence(program) if evidence else 0)),
            width * _ROWS * program.classes * entries,
            width * _ROWS * Backward(program).rows_at_once * entries,
        )

    def bytes(self, images: int) -> int:
        """The bytes that a batch of so many images takes in the most demanding stage."""
        return images * self.image + min(images * self.rows, self.most)


def batch_size_for(program: Program, *, proved: bool = False, evidence: bool = False) -> int:
    """The batch size: a power of two, at most 256, whose batches take about a quarter of the free memory.

    proved: whether bounds are computed in float64, too. evidence: whether proofs are kept. Where the estimate is too
    low, batches are split as they run (`MemoryBudget`).
    """
    footprint = Footprint.of(program, proved=proved, evidence=evidence)
    available = _SHARE * free_memory(program.device)
    size = _LARGEST_BATCH
    while size > 1 and footprint.bytes(size) > available:
        size //= 2
    return size


def check_one_image_fits(program: Program, source: str, *, proved: bool, evidence: bool = False) -> None:
    """Raises InvalidInput where the bounds of a single image take more memory than is free, by the estimate."""
    needed, free = Footprint.of(program, proved=proved, evidence=evidence).image, free_memory(program.device)
    if needed <= free:
        return
    largest = program.largest
    raise InvalidInput(
        f"{source}: bounds of one image take about {needed / 2**30:.1f} GiB of the memory of {program.device.type}, "
        f"and {free / 2**30:.1f} GiB are free; its values have {program.entries:,} numbers, {largest.name!r} of shape "
        f"{largest.shape} most of them: smaller images, fewer channels{' or --assurance estimate' if proved else ''} "
        "may help"
    )


def _evidence(program: Program) -> int:
    """Numbers that the evidence of an image keeps: the regions of two forward passes, for every entry with a backward
    row two ends and multipliers for both at every block below, and for every class the slopes of all activations."""
    sizes = [_size(block.pre.shape) for block in program.blocks]
    rows = sum((2 * below + 4) * size for below, size in enumerate(sizes))
    return _KEPT * program.entries + rows + program.classes * sum(sizes)


def _scratch(program: Program) -> int:
    return max(block.scratch for block in program.blocks)


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
