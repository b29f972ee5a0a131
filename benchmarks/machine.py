"""What a benchmark ran on, and what that machine can do: for the head of every table, and for rooflines."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llcert.machine.versions import versions
from llcert.numerics.products import full_precision
from llcert.numerics.tensors import channels_last
from llcert.runs.resolve import device_name


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
    """Measured limits with the threads that are set, a second.

    gflops, gflops64: of a product of two square matrices in float32 and float64. convolution: GFLOP of a convolution of
    64 channels in float32. gbytes: read and written by a copy of 128 MiB; cached: by one of the size of a value.
    """
    device = device or torch.device("cpu")
    with full_precision():
        return {
            "gflops": _product_rate(device, torch.float32),
            "gflops64": _product_rate(device, torch.float64),
            "convolution": _convolution_rate(device),
            "gbytes": _copy_rate(device, 2**25),
            "cached": _copy_rate(device, 2**20),
        }


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = 1024 if device.type == "cpu" else 8192  # short on a processor, so that one run goes by undisturbed
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2e-9 * side**3 / fastest(lambda: a @ b, device, repeats=20)


def _convolution_rate(device: torch.device, channels: int = 64, side: int = 16, batch: int = 64) -> float:
    x = channels_last(torch.randn(batch, channels, side, side, device=device))
    weight = torch.randn(channels, channels, 3, 3, device=device)
    seconds = fastest(lambda: torch.nn.functional.conv2d(x, weight, padding=1), device)
    return 2e-9 * x.numel() * weight[0].numel() / seconds


def _copy_rate(device: torch.device, size: int) -> float:
    x, y = torch.randn(size, device=device), torch.empty(size, device=device)
    return 8e-9 * size / fastest(lambda: y.copy_(x), device)


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
