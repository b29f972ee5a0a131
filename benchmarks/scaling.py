"""How time and memory grow: with the images of a data set, with the batch, with depth, width and image size.

    python benchmarks/scaling.py [--largest 10000]

Each point is a process of its own on one thread: seconds of certifying, and the peak of its memory above what it had
before the first batch. Images: random ones through a small random network, stages global, local and attack; with a
straight line fitted over 100 to 10,000. The others: stage local, 16 images. Writes results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import facts

from llcert.ir import Input, Network, Node, apply
from llcert.job import prepare
from llcert.ops import Conv, Linear, Reshape, relu
from llcert.question import Question

RESULTS = Path(__file__).parent / "results" / "scaling.json"
BASE = {"images": 16, "batch": 16, "depth": 3, "width": 16, "size": 32}
SWEEPS = {"batch": (4, 16, 64), "depth": (2, 4, 8), "width": (8, 16, 32), "size": (16, 32, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=10_000)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(_measured(json.loads(arguments.point))))
        return
    counts = [n for n in (100, 300, 1000, 3000, 10_000) if n <= arguments.largest]
    small = {"batch": 64, "depth": 2, "width": 8, "size": 16, "stages": ["global", "local", "attack"]}
    rows = {"images": [_point({**BASE, **small, "images": n}) for n in counts]}
    for name, values in SWEEPS.items():
        rows[name] = [_point({**BASE, "images": 64 if name == "batch" else 16, name: v}) for v in values]
    seconds = np.array([row["seconds"] for row in rows["images"]])
    slope, start = np.polyfit(counts, seconds, 1)
    misfit = float(np.abs(slope * np.array(counts) + start - seconds).max() / seconds.max())
    result = {"machine": facts(), "rows": rows, "seconds_an_image": slope, "largest_misfit": misfit}
    print(_table(rows))
    print(f"{1e3 * slope:.2f} ms an image; largest distance from the line: {100 * misfit:.1f} % of the longest run")
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def _point(setting: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--point", json.dumps(setting)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {**setting, **found}


def _measured(setting: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(1)
    network = _network(setting["depth"], setting["width"], setting["size"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        _write(path, setting["images"], setting["size"])
        question = Question(
            eps="0.05",
            data=str(path),
            stages=tuple(setting.get("stages", ("local",))),
            assurance="estimate",
            batch_size=setting["batch"],
        )
        job = prepare(network, question, self_check=False)
        before = _peak()
        begun = time.perf_counter()
        for _ in job.results():
            pass
        return {"seconds": time.perf_counter() - begun, "mebibytes": _peak() - before}


def _write(path: Path, images: int, size: int) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, 3, size, size), dtype=np.uint8)
    np.savez(path, x=pixels, y=generator.integers(0, 10, images))


def _network(depth: int, width: int, size: int) -> Network:
    generator = torch.Generator().manual_seed(0)
    node: Node = apply(Input((3, size, size)))
    for layer in range(depth):
        rows = node.shape[0] * 9
        weight = torch.randn(width, node.shape[0], 3, 3, generator=generator) / rows**0.5
        stride = 2 if layer == 0 else 1
        node = apply(relu(), apply(Conv(weight, None, (stride, stride), (1, 1)), node))
    flat = apply(Reshape((torch.Size(node.shape).numel(),)), node)
    return Network(apply(Linear(torch.randn(10, flat.shape[0], generator=generator) / flat.shape[0] ** 0.5), flat))


def _peak() -> float:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _table(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| what grows | to | seconds | MiB |", "|---|---|---|---|"]
    for name, points in rows.items():
        lines += [f"| {name} | {p[name]} | {p['seconds']:.2f} | {p['mebibytes']:.0f} |" for p in points]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
