"""The number of torch's threads that a process should use."""

from __future__ import annotations

import os

import torch

from llcert.machine.environment import local_size

_WORTH_SHARING = 1 << 20  # multiplications an image below which threads wait for each other longer than they compute


def threads_for(multiplications: int, available: int) -> int:
    """Threads that a network can use of those available: one for a small network, which more would slow down.

    multiplications: of one forward pass of one image. On a busy machine several threads take ten times as long for a
    small network: they spin at every one of thousands of small products.
    """
    return 1 if multiplications < _WORTH_SHARING else available


def own_threads() -> int:
    """This process's part of the threads that the processes on this machine share; what OMP_NUM_THREADS says is meant
    for each of them."""
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // local_size())
