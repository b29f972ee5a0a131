"""Images certified a second, against the paper's evaluation written down plainly, on one thread.

    python benchmarks/throughput.py [--data-root ../shared/data] [--images 500] [--baseline-images 48] [--device cpu]

Both under `estimate` at tolerance 1e-3, in the same run: llcert with its cascade (global, attack, local) and with the
local stage alone; the baseline of baseline.py. Checks that every image the baseline certifies is certified. Writes
results/throughput.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import baseline
import torch
from machine import ceilings, facts, synchronise

from llcert.api import load
from llcert.bounds import global_bound
from llcert.certification import Assurance, AttackKind, Certifier, Settings, Verdict
from llcert.data import Dataset, load_dataset
from llcert.ir import Network
from llcert.numerics.products import full_precision
from llcert.program import lower
from llcert.spectral import Lanczos

RESULTS = Path(__file__).parent / "results" / "throughput.json"
NETWORKS = ("cifar_6c2f_relu_theta", "cifar_small_relu_theta")
EPS = 36 / 255
BATCH = 64
RUNS = {"cascade": ("global", "attack", "local"), "local alone": ("local",)}


@dataclass(frozen=True)
class Run:
    """What one way of certifying took. decided: indices of certified images."""

    images: int
    seconds: float
    certified: frozenset[int]
    stages: dict[str, Any]

    @property
    def rate(self) -> float:
        return self.images / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--baseline-images", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="networks whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    dataset = load_dataset("cifar10", root=arguments.data_root)
    result: dict[str, Any] = {"machine": facts(device), "ceilings": ceilings(device), "networks": {}}
    for name in (n for n in NETWORKS if not arguments.only or arguments.only in n):
        network = replace(load(arguments.data_root / "reference" / f"{name}.onnx"), metadata={})
        row = measured(network, dataset, arguments.images, arguments.baseline_images, device)
        result["networks"][name] = row
        print(table(name, row), flush=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def measured(network: Network, dataset: Dataset, images: int, baseline_images: int, device: torch.device) -> Any:
    """One network's figures."""
    plain = _baseline(network, dataset, baseline_images, device)
    row: dict[str, Any] = {"eps": EPS, "baseline": {"images": baseline_images, "rate": plain.rate}}
    for label, stages in RUNS.items():
        run = _ours(network, dataset, images, stages, device)
        missed = sorted(i for i in plain.certified if i not in run.certified)
        row[label] = {
            "images": images,
            "rate": run.rate,
            "ratio": run.rate / plain.rate,
            "certified": len(run.certified),
            "missed": missed,
            "stages": run.stages,
        }
    return row


def _baseline(network: Network, dataset: Dataset, images: int, device: torch.device) -> Run:
    program = lower(network, device)
    found: set[int] = set()
    with torch.no_grad(), full_precision():
        bound = global_bound(program)
        (batch,) = dataset.batches(range(images), images)
        x, labels = batch.images.to(device), batch.labels.to(device)
        synchronise(device)
        begun = time.perf_counter()
        decided = baseline.certified(program, bound, x, labels, EPS)
        synchronise(device)
        seconds = time.perf_counter() - begun
    found.update(batch.indices[decided.cpu()].tolist())
    return Run(images, seconds, frozenset(found), {})


def _ours(network: Network, dataset: Dataset, images: int, stages: tuple[str, ...], device: torch.device) -> Run:
    settings = Settings(
        eps=EPS,
        stages=stages,
        attack=AttackKind.PAPER,
        solver=Lanczos(tolerance=1e-3),
        assurance=Assurance.ESTIMATE,
    )
    certifier = Certifier.of(network, settings, device)
    certified: set[int] = set()
    spent: dict[str, Any] = {}
    synchronise(device)
    begun = time.perf_counter()
    for batch in dataset.batches(range(images), BATCH):
        result = certifier(batch.images, batch.labels, batch.indices)
        certified.update(s.index for s in result.samples if s.verdict is Verdict.CERTIFIED)
        for stage in result.stages:
            known = spent.setdefault(stage.name, {"seen": 0, "decided": 0, "seconds": 0.0})
            known["seen"] += stage.seen
            known["decided"] += stage.decided
            known["seconds"] += stage.seconds
    synchronise(device)
    return Run(images, time.perf_counter() - begun, frozenset(certified), spent)


def table(name: str, row: dict[str, Any]) -> str:
    """One network's figures as lines."""
    lines = [f"{name}: baseline {row['baseline']['rate']:.3f} images/s on {row['baseline']['images']}"]
    for label in RUNS:
        run = row[label]
        lines.append(
            f"  {label}: {run['rate']:.2f} images/s on {run['images']}, {run['ratio']:.1f} times the baseline; "
            f"{run['certified']} certified, {len(run['missed'])} of the baseline's missed"
        )
        for stage, spent in run["stages"].items():
            lines.append(f"    {stage}: {spent['seen']} seen, {spent['decided']} decided, {spent['seconds']:.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
