"""The paper's Tables 1 and 2 in small: what each part of the method is worth, at equal budgets, over three seeds.

    python benchmarks/ablation.py [--data-root ../shared/data] [--work runs/ablation] [--jobs 2]

10,000 MNIST training images, a network of two convolutions and two dense layers, radius 1.58, every run of as many
epochs. Each run is one `llcert train`; a run that was interrupted goes on, one that is finished is not done again.
Prints the tables of docs/training.md and writes results/ablation.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

import llcert
from llcert.bounds import Balls, EstimatedArithmetic, LastLayer, global_bound, propagate, worst_margins
from llcert.certification.specification import positive
from llcert.data import load_dataset
from llcert.data.dataset import ArrayImages
from llcert.domain.region import ball
from llcert.program import lower
from llcert_train.metrics import read

ARCH, EPS, TRAINED_ON, TESTED_ON, EPOCHS, SEEDS = "tiny-conv", "1.58", 10_000, 1_000, 15, (0, 1, 2)
RESULTS = Path(__file__).parent / "results" / "ablation.json"

_LOCAL = "--activation relu-theta --threshold 1 --sparsity 0.01"
RUNS: Mapping[str, str] = MappingProxyType(
    {
        "Standard": "--loss standard --activation relu",
        "LMT": "--loss lmt --activation relu",
        "GloRo": "--loss gloro --activation relu",
        "BCP": "--loss bcp --activation relu",
        "Local-Lip-G": f"--loss local-lip-g {_LOCAL}",
        "Local-Lip-B": f"--loss local-lip-b {_LOCAL}",
        "Local-Lip-G without sparsity": "--loss local-lip-g --activation relu-theta --threshold 1",
        "Local-Lip-B without sparsity": "--loss local-lip-b --activation relu-theta --threshold 1",
        "Local-Lip-B, ReLU": "--loss local-lip-b --activation relu",
        "Local-Lip-B, MaxMin": "--loss local-lip-b --activation maxmin",
        "Local-Lip-B, clipped MaxMin": "--loss local-lip-b --activation maxmin-clipped --threshold 1",
        "Local-Lip-B, random start, 2 iterations": f"--loss local-lip-b {_LOCAL} --start random --iterations 2",
        "Local-Lip-B, random start, 5 iterations": f"--loss local-lip-b {_LOCAL} --start random --iterations 5",
        "Local-Lip-B, random start, 10 iterations": f"--loss local-lip-b {_LOCAL} --start random --iterations 10",
    }
)
"""Options of `llcert train` by the name of a row. Local-Lip-B starts from saved vectors, two iterations a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    prepare(arguments.data_root, arguments.work)
    began = time.perf_counter()
    wanted = [(name, seed) for seed in SEEDS for name in RUNS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        train = functools.partial(trained, work=arguments.work, epochs=arguments.epochs)
        for done, (name, seed) in enumerate(pool.map(train, wanted), 1):
            minutes = (time.perf_counter() - began) / 60
            print(f"{done:3d} of {len(wanted)}  {minutes:5.1f} min  {name}, seed {seed}", file=sys.stderr, flush=True)
    rows = {name: [measured(folder_of(arguments.work, name, seed)) for seed in SEEDS] for name in RUNS}
    after = after_training(folder_of(arguments.work, "BCP", 0) / "model.onnx", arguments.work / "test.npz")
    print(table(rows))
    minutes = sum(run["seconds"] for runs in rows.values() for run in runs) / 60
    print(f"\n{minutes:.0f} minutes of training and certifying, {arguments.jobs} runs at a time")
    print(f"\nBCP, seed 0, certified by the global ball {after['global']:.1%}, by the local bound {after['local']:.1%}")
    content = {
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()},
        "settings": {
            "arch": ARCH,
            "eps": EPS,
            "images": TRAINED_ON,
            "tested_on": TESTED_ON,
            "epochs": arguments.epochs,
        },
        "options": dict(RUNS),
        "runs": rows,
        "bcp_after_training": after,
        "minutes_of_all_runs": minutes,
        "jobs": arguments.jobs,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def prepare(root: Path, work: Path) -> None:
    """Writes the first images of MNIST as the data files of all runs."""
    for split, count in (("train", TRAINED_ON), ("test", TESTED_ON)):
        target = work / f"{split}.npz"
        if target.exists():
            continue
        data = load_dataset("mnist", split=split, root=root)
        assert isinstance(data.images, ArrayImages)
        np.savez(target, x=data.images.values[:count], y=data.labels[:count])


def folder_of(work: Path, name: str, seed: int) -> Path:
    """Where a run lies."""
    return work / f"{name.lower().replace(', ', '_').replace(' ', '-')}-{seed}"


def trained(wanted: tuple[str, int], *, work: Path, epochs: int) -> tuple[str, int]:
    """One run, to its end; the same again. Does nothing where it is finished."""
    name, seed = wanted
    out = folder_of(work, name, seed)
    if (out / "model.md").exists():
        return wanted
    train, test = (shlex.quote(str(work / f"{split}.npz")) for split in ("train", "test"))
    data = f"--data {train} --test-data {test} --eps {EPS}"
    schedule = f"--epochs {epochs} --evaluate 5 --seed {seed} --out {shlex.quote(str(out))} --resume"
    asked = shlex.split(f"{data} {schedule} {RUNS[name]}")
    command = [sys.executable, "-m", "llcert", "train", ARCH, *asked]
    log = (work / f"{out.name}.log").open("ab")
    with log:
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)
    return wanted


def measured(out: Path) -> dict[str, Any]:
    """What a finished run reached on the test images, and what it cost."""
    summary = json.loads((out / "certify" / "summary.json").read_text())
    last = read(out / "metrics.jsonl")[-1]
    assert last.held_out is not None
    assert last.train is not None
    return {
        "clean": summary["clean_accuracy"],
        "pgd": summary["attacked_accuracy"],
        "attack": summary["attack"],
        "certified": summary["certified_accuracy"],
        "global_lipschitz": last.held_out.global_lipschitz,
        "local_lipschitz": last.held_out.local_lipschitz,
        "varying": [layer.varying for layer in last.held_out.layers[:-1]],
        "images_per_second": last.train.images_per_second,
        "seconds": (last.seconds or 0) + summary["seconds"],
    }


def after_training(model: Path, test: Path) -> dict[str, float]:
    """The share of the test images that box and ball certify, with the global norms and with each image's own."""
    (batch,) = load_dataset(str(test)).batches(range(TESTED_ON), TESTED_ON)
    network = llcert.load(model)
    program = lower(network)
    shares = {}
    with torch.no_grad():
        bound, last = global_bound(program), LastLayer.of(program)
        for balls in (Balls.GLOBAL, Balls.LOCAL):
            trace = propagate(program, ball(batch.images, float(EPS)), EstimatedArithmetic(bound, balls))
            margins = worst_margins(program.logits(batch.images), batch.labels, last, trace.post_activation)
            shares[balls.value] = float(positive(margins.amin(1)).double().mean())
    return shares


def table(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Mean and spread over the seeds, in percent."""
    attack = next(iter(rows.values()))[0].get("attack", "paper")  # which older results do not name
    head = ("", "clean", f"PGD ({attack})", "certified", "global bound", "local bound", "varying", "images/s")
    lines = [f"| {' | '.join(head)} |", "|---|" + "---|" * 7]
    for name, runs in rows.items():
        shares = [_spread(100 * r[key] for r in runs) for key in ("clean", "pgd", "certified")]
        bounds = [_mean(r[key] for r in runs) for key in ("global_lipschitz", "local_lipschitz")]
        varying = [statistics.mean(r["varying"][i] for r in runs) for i in range(len(runs[0]["varying"]))]
        parts = [*shares, *bounds, ", ".join(f"{100 * v:.0f}" for v in varying)]
        lines.append(f"| {name} | {' | '.join(parts)} | {statistics.mean(r['images_per_second'] for r in runs):,.0f} |")
    return "\n".join(lines)


def _spread(values: Iterable[float]) -> str:
    known = list(values)
    return f"{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f}"


def _mean(values: Iterable[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{statistics.mean(known):.2f}" if known else "-"


if __name__ == "__main__":
    main()
