"""How many images fit into one batch, and how many threads they keep busy."""

from __future__ import annotations

import os

import torch

from llcert.certify import Footprint
from llcert.errors import InvalidInput
from llcert.memory import free_memory
from llcert.processes import local_size
from llcert.program import Program

MOST = 256
_SHARE = 0.25
_WORTH_SHARING = 1 << 20  # multiplications an image below which threads wait for each other longer than they work


def batch_size_for(program: Program, *, proved: bool = False) -> int:
    """Images a batch: a power of two, at most 256, that takes about a quarter of the memory that is free.

    proved: whether certificates are proved. A rough estimate: where it is wrong, batches are cut as they run.
    """
    footprint, room = Footprint.of(program, proved=proved), _SHARE * free_memory(program.device)
    size = MOST
    while size > 1 and footprint.bytes(size) > room:
        size //= 2
    return size


def check_room(program: Program, source: str, *, proved: bool) -> None:
    """Raises InvalidInput where bounds of a single image take more memory than is free, by the same estimate."""
    needed, free = Footprint.of(program, proved=proved).image, free_memory(program.device)
    if needed <= free:
        return
    largest = program.largest
    raise InvalidInput(
        f"{source}: bounds of one image take about {needed / 2**30:.1f} GiB of the memory of {program.device.type}, "
        f"and {free / 2**30:.1f} GiB are free; its values have {program.entries:,} numbers, {largest.name!r} of shape "
        f"{largest.shape} most of them: smaller images, fewer channels{' or --assurance estimate' if proved else ''} "
        "may help"
    )


def threads_for(program: Program, available: int) -> int:
    """Threads a program can use of those available: one for a small network, which more would slow down.

    On a busy machine ten times: they spin at every one of thousands of small products.
    """
    nodes = {node for block in program.blocks for node in block.body}
    weights = ((n.shape, n.op.tensors().get("weight")) for n in nodes)
    work = sum(_size(shape) * (w.numel() // w.shape[0]) for shape, w in weights if w is not None and w.ndim > 1)
    return 1 if work < _WORTH_SHARING else available


def own_threads() -> int:
    """This process's part of the threads that the processes on this machine share; what OMP_NUM_THREADS says is meant
    for each of them."""
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // local_size())


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
