"""The processes that train one network together, by PyTorch's own engine (torchrun); one alone is a team too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llcert.errors import InvalidInput


@dataclass(frozen=True)
class Team:
    """rank: of this process, from 0. size: how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def shard(self, images: int) -> Tensor:
        """Positions of this process's images, int64: as many for each process, so a few may be left out.

        Raises InvalidInput where there are fewer images than processes.
        """
        if images < self.size:
            raise InvalidInput(f"{images} training images cannot be shared by {self.size} processes")
        return torch.arange(self.rank, images - images % self.size, self.size)

    def share(self, batch: int) -> int:
        """This process's part of a batch. Raises InvalidInput where it cannot be shared evenly."""
        if batch % self.size:
            raise InvalidInput(f"batch {batch}: cannot be shared by {self.size} processes; give a multiple")
        return batch // self.size

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the team."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process raises the flag."""
        if self.size == 1:
            return flag
        raised = torch.tensor(float(flag), device=device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised > 0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def agreed(self, number: int, device: torch.device) -> int:
        """The first process's number, for all."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=device)
        dist.broadcast(value, 0)
        return int(value)


@contextmanager
def assembled(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started, or this process alone; gloo on the CPU, NCCL on GPUs."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield Team()
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise InvalidInput(f"WORLD_SIZE is {size}, but {missing[0]} is not set: start several processes with torchrun")
    # the others wait while the first one looks at held-out images
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
    try:
        yield Team(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def own_rank() -> int:
    """The number that torchrun gave this process; 0 for one that is alone."""
    return _number("RANK", 0) if _number("WORLD_SIZE", 1) > 1 else 0


def _number(name: str, default: int) -> int:
    """A whole number from the environment. Raises InvalidInput for anything else."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InvalidInput(f"{name} {text[:40]!r} in the environment: not a number of processes")
    return int(text)


def own_device(device: torch.device) -> torch.device:
    """This process's device: with several processes, the GPU of its local rank."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    rank, count = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if rank >= count:
        raise InvalidInput(f"process {rank} of this machine has no GPU: there are {count}; lower --nproc-per-node")
    mine = torch.device("cuda", rank)
    torch.cuda.set_device(mine)
    return mine
