"""How time and memory grow: with the images of a data set, with the batch, with depth, width and image size.

    python benchmarks/scaling.py [--largest 1000] [--device cpu]

Each point is a process of its own on one thread: seconds of certifying, and the peak of its memory above what it had
before the first batch. Images: random ones through a small random network, stages global, local and attack; a straight
line over 100 to the largest. The others: stage local, 16 images; a power of what grows for the seconds, and for the
memory. The long run is --largest 10000. Writes results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import facts, synchronise
from peak import Peak, convolutions, images_of, in_new_process

from llcert.options import Options
from llcert.runs.prepare import prepare

RESULTS = Path(__file__).parent / "results" / "scaling.json"
BASE = {"images": 16, "batch": 16, "depth": 3, "width": 16, "size": 32}
SMALL = {"batch": 64, "depth": 2, "width": 8, "size": 16, "stages": ["global", "local", "attack"]}
SWEEPS = {"batch": (4, 16, 64), "depth": (2, 4, 8), "width": (8, 16, 32), "size": (16, 32, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(_measured(json.loads(arguments.point))))
        return
    torch.set_num_threads(1)
    base = {**BASE, "device": arguments.device}
    counts = [n for n in (100, 300, 1000, 3000, 10_000) if n <= arguments.largest]
    rows = {"images": [in_new_process(__file__, {**base, **SMALL, "images": n}) for n in counts]}
    for name, values in SWEEPS.items():
        images = 64 if name == "batch" else 16
        rows[name] = [in_new_process(__file__, {**base, "images": images, name: v}) for v in values]
    fits = {"images": _line(rows["images"]), **{name: _powers(name, rows[name]) for name in SWEEPS}}
    print(_table(rows))
    print("\n".join(f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in fit.items()) for name, fit in fits.items()))
    result = {"machine": facts(torch.device(arguments.device)), "rows": rows, "fits": fits}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def _line(points: list[dict[str, Any]]) -> dict[str, float]:
    """A straight line through the seconds; misfit: the largest distance from it, as a share of the longest run."""
    counts, seconds = (np.array([p[name] for p in points]) for name in ("images", "seconds"))
    slope, start = np.polyfit(counts, seconds, 1)
    misfit = np.abs(slope * counts + start - seconds).max() / seconds.max()
    grown = points[-1]["mebibytes"] - points[0]["mebibytes"]
    return {"seconds_an_image": float(slope), "misfit": float(misfit), "mebibytes_grown": grown}


def _powers(name: str, points: list[dict[str, Any]]) -> dict[str, float]:
    """The powers of what grows that fit seconds and memory; misfit: the largest relative distance from them."""
    found = {}
    for measure in ("seconds", "mebibytes"):
        x, y = (np.log([max(p[key], 1e-3) for p in points]) for key in (name, measure))
        power, start = np.polyfit(x, y, 1)
        misfit = np.expm1(np.abs(power * x + start - y).max())
        found |= {f"power_of_{measure}": float(power), f"misfit_of_{measure}": float(misfit)}
    return found


def _measured(setting: dict[str, Any]) -> dict[str, float]:
    torch.set_num_threads(1)
    network = convolutions(setting["depth"], setting["width"], setting["size"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        pixels, labels = images_of(network, setting["images"])
        np.savez(path, x=pixels, y=labels)
        options = Options(
            eps="0.05",
            data=str(path),
            stages=tuple(setting.get("stages", ("local",))),
            assurance="estimate",
            batch_size=setting["batch"],
            device=setting["device"],
            self_check=False,
        )
        job = prepare(network, options)
        device = job.certifier.program.device
        peak, begun = Peak.of(device), time.perf_counter()
        for _ in job.results():
            pass
        synchronise(device)
        return {"seconds": time.perf_counter() - begun, "mebibytes": peak.mebibytes}


def _table(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| what grows | to | seconds | MiB |", "|---|---|---|---|"]
    for name, points in rows.items():
        lines += [f"| {name} | {p[name]} | {p['seconds']:.2f} | {p['mebibytes']:.0f} |" for p in points]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
