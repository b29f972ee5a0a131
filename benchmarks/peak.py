"""The most memory that work takes, in a process of its own; and random networks to measure it on."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llcert.ir import Input, Network, Node, apply
from llcert.ops import Conv, Linear, Reshape, relu


@dataclass(frozen=True)
class Peak:
    """Memory above what there was at the start: torch's on a GPU, else the process's."""

    device: torch.device
    start: int

    @staticmethod
    def of(device: torch.device) -> Peak:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return Peak(device, torch.cuda.memory_allocated(device))
        return Peak(device, _resident())

    @property
    def mebibytes(self) -> float:
        most = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _resident()
        return (most - self.start) / 2**20


def in_new_process(script: str, setting: dict[str, Any]) -> dict[str, Any]:
    """What `script --point SETTING` prints, with the setting; none of an earlier measurement's memory is left."""
    command = [sys.executable, script, "--point", json.dumps(setting)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**setting, **json.loads(printed)}


def _resident() -> int:
    """The most bytes that this process has had in memory so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def convolutions(depth: int, width: int, size: int, *, classes: int = 10) -> Network:
    """Random 3x3 convolutions, the first with stride 2, and a dense layer."""
    generator = torch.Generator().manual_seed(0)
    node: Node = apply(Input((3, size, size)))
    for layer in range(depth):
        weight = _random(generator, width, node.shape[0], 3, 3)
        stride = 2 if layer == 0 else 1
        node = apply(relu(), apply(Conv(weight, None, (stride, stride), (1, 1)), node))
    flat = apply(Reshape((torch.Size(node.shape).numel(),)), node)
    return Network(apply(Linear(_random(generator, classes, flat.shape[0])), flat))


def dense(depth: int, width: int, *, classes: int = 10) -> Network:
    """Random dense layers on 784 inputs."""
    generator = torch.Generator().manual_seed(0)
    node: Node = apply(Input((784,)))
    for _ in range(depth):
        node = apply(relu(), apply(Linear(_random(generator, width, node.shape[0])), node))
    return Network(apply(Linear(_random(generator, classes, node.shape[0])), node))


def _random(generator: torch.Generator, rows: int, *shape: int) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=generator) / torch.Size(shape).numel() ** 0.5


def images_of(network: Network, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Random bytes as images, `[count, *shape]`, and the network's own answers as labels."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, *network.input.shape), dtype=np.uint8)
    parts = np.array_split(pixels, -(-count // 256))
    answers = [network(torch.from_numpy(part).float() / 255).argmax(1).numpy() for part in parts]
    return pixels, np.concatenate(answers)
