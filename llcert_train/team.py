"""The processes that train one network together, by PyTorch's own engine (torchrun); one alone is a team too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llcert.errors import InvalidInput
from llcert.machine.environment import group_size


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
    size = group_size()
    if size == 1:
        yield Team()
        return
    # the others wait while the first one looks at held-out images
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
    try:
        yield Team(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
