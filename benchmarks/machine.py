"""What a benchmark ran on, and what that machine can do: for the head of every table, and for rooflines."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llcert.job import device_name, versions


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """Machine, versions, commit and threads."""
    return {
        "processor": _processor(),
        "device": device_name(device or torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "versions": versions(),
    }


def ceilings(device: torch.device | None = None) -> dict[str, float]:
    """Measured limits with the threads that are set: products and convolutions in float32, and copying in memory.

    gflops: of a product of two square matrices. gbytes: read and written by a copy, a second.
    """
    device = device or torch.device("cpu")
    side, size = 2048, 2**25
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    x, y = torch.randn(size, device=device), torch.empty(size, device=device)
    product = fastest(lambda: a @ b, device)
    copy = fastest(lambda: y.copy_(x), device)
    return {"gflops": 2e-9 * side**3 / product, "gbytes": 8e-9 * size / copy}


def fastest(work: Callable[[], Any], device: torch.device | None = None, repeats: int = 5) -> float:
    """Seconds of the fastest of a few runs, after one that does not count."""
    work()
    best = float("inf")
    for _ in range(repeats):
        synchronise(device)
        begun = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - begun)
    return best


def synchronise(device: torch.device | None) -> None:
    """Waits for a GPU."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
