"""How much of what attacks allow is proved, stage by stage, on networks that others trained.

    python benchmarks/tightness.py [--data-root ../shared/data] [--images 100] [--only NAME]

Certified images of the first so many test images, cumulative from left to right, and seconds an image that reached the
stage, on one thread; seconds are the processor's, so that other processes count little. "paper" is the paper's local
bound (0/1 masks, an estimate); "linear" is plain linear bound propagation (CROWN's slopes, no ellipsoids) on the boxes
of the local bound; both, and the paper's attack, are measured here, in the same run, on all images that the network
gets right. Everything else is proved (`deterministic`, float32). Writes results/tightness.json after every network and
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from llcert.api import load
from llcert.bounds import RowWeighting, worst_margins
from llcert.bounds.backward.choices import Choice, Key
from llcert.bounds.backward.crown import Backward, differences
from llcert.certification import PGD, Adversary, Perturbations, Verdict, radii_of
from llcert.certification.specification import positive
from llcert.data import load_dataset
from llcert.domain.relaxation import Relaxation
from llcert.domain.row_sharing import RowSharing
from llcert.options import Options
from llcert.reporting.tally import Tally
from llcert.runs.prepare import Certification, prepare

RESULTS = Path(__file__).parent / "results" / "tightness.json"
STAGES = ("global", "local", "attack", "crown-ball", "crown-ball-intermediate", "branch")
BRANCH = 20.0
"""Seconds that an image may take in the stage branch."""

NETWORKS = (
    ("reference/cifar_small_relu_theta", "cifar10", "36/255"),
    ("reference/mnist_small_relu_theta", "mnist", "0.8"),
    ("reference/mnist_small_maxmin", "mnist", "0.8"),
    ("models/sdp-crown/cifar10_cnn_a", "cifar10", "24/255"),
    ("models/sdp-crown/cifar10_convsmall", "cifar10", "24/255"),
    ("models/sdp-crown/mnist_convsmall", "mnist", "0.3"),
    ("models/convex_adversarial/models_scaled_l2__cifar_small_36px_stage0", "cifar10", "36/255"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--only", help="networks whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, data, eps in NETWORKS:
        row = known.get(name, {})
        wanted = arguments.only is None or arguments.only in name
        if wanted and (row.get("images") != arguments.images or arguments.only):
            with mock.patch("time.perf_counter", time.process_time):
                known[name] = measured(arguments.data_root, name, data, eps, arguments.images)
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(table({name: known[name] for name, _, _ in NETWORKS if name in known}))


def measured(root: Path, name: str, data: str, eps: str, images: int) -> dict[str, Any]:
    """One network's row."""
    job = _job(root, name, data, eps, images)
    tally = Tally(job.subject)
    for result in job.results():
        tally.add(result)
        print(f"{name}: {len(tally)} of {images}", flush=True)
    report = tally.report()
    decided = {s.name: s.decided for s in report.stages}
    row: dict[str, Any] = {
        "eps": eps,
        "images": images,
        "clean": images - report.count(Verdict.MISCLASSIFIED),
        "attack": images - report.count(Verdict.MISCLASSIFIED) - report.count(Verdict.ATTACKED),
        "in_range": images - report.count(Verdict.MISCLASSIFIED) - report.attacked(in_range=True),
        "certified": {},
        "seconds": {s.name: round(s.seconds / s.seen, 3) for s in report.stages if s.seen},
        "certified_as": report.to_json()["certified_as"],
    }
    total = 0
    for stage in ("global", "local", "crown-ball", "crown-ball-intermediate", "branch"):
        total += decided[stage]
        row["certified"][stage] = total
    row["rivals"] = rivals(job)
    row["pgd"] = withstanding(job)
    return row


def _job(root: Path, name: str, data: str, eps: str, images: int) -> Certification:
    network = load(root / f"{name}.onnx")
    network = replace(network, metadata={})
    index = json.loads((root / "models" / "index.json").read_text())
    info: dict[str, Any] = next((e for e in index if name == f"models/{e['file'].removesuffix('.onnx')}"), {})
    mean, std = (tuple(info[k]) if info.get(k) else None for k in ("mean", "std"))
    options = Options(
        eps=eps, samples=str(images), stages=STAGES, batch_size=20, branch_seconds=BRANCH, mean=mean, std=std
    )
    return prepare(network, options, model=name, dataset=load_dataset(data, root=root))


def rivals(job: Certification) -> dict[str, Any]:
    """The paper's local bound, and plain linear bounds on its boxes: certified images and seconds an image."""
    estimator, program = job.certifier.estimator, job.certifier.program
    counts, seconds, right = {"paper": 0, "linear": 0}, {"paper": 0.0, "linear": 0.0}, 0
    with torch.no_grad():
        for batch in job.dataset.batches(job.indices, 10):
            images, labels = batch.images.to(program.dtype), batch.labels
            logits = program.logits(images)
            kept = logits.argmax(1) == labels
            images, labels, logits, indices = images[kept], labels[kept], logits[kept], batch.indices[kept]
            right += len(images)
            begun = time.perf_counter()
            trace = estimator.trace(job.certifier.batch(images, labels, indices), RowWeighting.SLOPE)
            counts["paper"] += int(
                positive(worst_margins(logits, labels, estimator.last, trace.post_activation).amin(1)).sum()
            )
            middle = time.perf_counter()
            rows = differences(labels, program)
            bounds = Backward(program)(trace, {program.output: rows}, _linear).lower
            bounds[torch.arange(len(labels)), labels] = torch.inf
            counts["linear"] += int(positive(bounds.amin(1)).sum())
            seconds["paper"] += middle - begun
            seconds["linear"] += time.perf_counter() - middle
    return {k: {"certified": counts[k], "seconds": round(seconds[k] / max(right, 1), 3)} for k in counts}


def withstanding(job: Certification) -> int:
    """How many images the paper's attack leaves."""
    program, found = job.certifier.program, 0
    adversary = Adversary(program)
    with torch.no_grad():
        for batch in job.dataset.batches(job.indices, 20):
            kept = program.logits(batch.images).argmax(1) == batch.labels
            images, labels, indices = batch.images[kept], batch.labels[kept], batch.indices[kept]
            around = Perturbations.natural(images, radii_of(job.certifier.settings.eps, indices), program.dtype)
            found += int((~PGD(patience=0)(adversary, around, labels, indices).refuted).sum())
    return found


def _linear(key: Key, step: Relaxation, rows: torch.Tensor, sharing: RowSharing) -> Choice:
    return Choice(step.slopes(rows), rows.new_zeros(rows.shape[:2]))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results as a table: images, seconds for each that reached the stage in brackets."""
    head = (
        "network",
        "eps",
        "clean",
        "linear",
        "paper",
        "global",
        "local",
        "crown-ball",
        "crown-ball-intermediate",
        "branch",
        "attack",
        "in pixel range",
        "PGD (paper)",
        "not proved",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        rivals_ = [f"{row['rivals'][k]['certified']} ({row['rivals'][k]['seconds']})" for k in ("linear", "paper")]
        own = [f"{n} ({row['seconds'].get(k, '-')})" for k, n in row["certified"].items()]
        lost = row["certified_as"]["estimate"] - row["certified"]["branch"]
        attack = f"{row['attack']} ({row['seconds'].get('targeted', '-')})"
        parts = (
            name.split("/")[-1],
            row["eps"],
            row["clean"],
            *rivals_,
            *own,
            attack,
            row["in_range"],
            row["pgd"],
            lost,
        )
        lines.append(f"| {' | '.join(map(str, parts))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
