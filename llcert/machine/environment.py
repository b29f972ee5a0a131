"""The environment that torchrun sets for a process: its rank, the number of processes, and its GPU."""

from __future__ import annotations

import os

import torch

from llcert.errors import InvalidInput


def group_size() -> int:
    """How many processes were started together; 1 for one that is alone.

    Raises InvalidInput where there are several and the environment does not say where they meet.
    """
    size = _number("WORLD_SIZE", 1)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if size != 1 and missing:
        raise InvalidInput(f"WORLD_SIZE is {size}, but {missing[0]} is not set: start several processes with torchrun")
    return size


def own_rank() -> int:
    """The number that torchrun gave this process; 0 for one that is alone."""
    return _number("RANK", 0) if _number("WORLD_SIZE", 1) > 1 else 0


def local_size() -> int:
    """How many of the processes share this machine, at least 1."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def own_device(device: torch.device) -> torch.device:
    """This process's device: with several processes, the GPU of its local rank, which it makes torch's default."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    rank, count = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if rank >= count:
        raise InvalidInput(f"process {rank} of this machine has no GPU: there are {count}; lower --nproc-per-node")
    mine = torch.device("cuda", rank)
    torch.cuda.set_device(mine)
    return mine


def _number(name: str, default: int) -> int:
    """A whole number from the environment. Raises InvalidInput for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InvalidInput(f"{name} {text[:40]!r} in the environment: not a number of processes")
    return int(text)
