"""What a batch takes of memory, by stage, against the estimate its size is chosen by.

    python benchmarks/memory.py [--device cpu] [--networks convolutions,dense,classes] [--batches 2,8] [--all]
                                [--data-root ../shared/data]

Each line is a process of its own on one thread: the peak above what there was before the first batch, of batches of two
sizes, one after the other; what grows between them is the memory of an image. Random networks, whose own answers are
the labels; with --data-root also two that were trained. Every stage alone, at a radius at which it has work; proofs at
one at which all is certified. Writes results/memory.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import facts
from peak import Peak, convolutions, dense, images_of, in_new_process

from llcert.api import images_and_labels, load
from llcert.certification import Footprint
from llcert.data import Dataset, load_dataset
from llcert.ir import Network
from llcert.options import Options
from llcert.runs.prepare import prepare

RESULTS = Path(__file__).parent / "results" / "memory.json"
RANDOM: dict[str, Callable[[], Network]] = {
    "convolutions": lambda: convolutions(3, 16, 32),
    "dense": lambda: dense(2, 512),
    "classes": lambda: convolutions(2, 8, 32, classes=200),
}
TRAINED = ("cifar_small_relu_theta", "cifar_6c2f_relu_theta")
STAGES = {
    "local": ("0.1", "estimate"),
    "attack": ("0.01", "estimate"),
    "crown-ball": ("0.1", "estimate"),
    "crown-ball-intermediate": ("0.1", "estimate"),
    "branch": ("0.1", "estimate"),
    "local, proved": ("1/2550", "deterministic"),
    "crown-ball, proved": ("1/2550", "deterministic"),
}
SHORT = ("local", "crown-ball", "local, proved")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", default=",".join(RANDOM))
    parser.add_argument("--batches", default="2,8")
    parser.add_argument("--all", action="store_true", help="every stage, not three")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(_measured(json.loads(arguments.point))))
        return
    torch.set_num_threads(1)
    names = [*arguments.networks.split(","), *(TRAINED if arguments.data_root else ())]
    common = {
        "batches": [int(n) for n in arguments.batches.split(",")],
        "device": arguments.device,
        "data_root": str(arguments.data_root) if arguments.data_root else None,
    }
    rows = []
    print(
        "| network | stage | batch | peak, MiB | estimate, MiB | ratio | MiB an image |\n|---|---|---|---|---|---|---|"
    )
    for name in names:
        for stage in STAGES if arguments.all else SHORT:
            rows.append(in_new_process(__file__, {"network": name, "stage": stage, **common}))
            print(_line(rows[-1]), flush=True)
    RESULTS.write_text(json.dumps({"machine": facts(torch.device(arguments.device)), "rows": rows}, indent=1) + "\n")


def _measured(setting: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    (small, large), (eps, assurance) = setting["batches"], STAGES[setting["stage"]]
    network, data = _question(setting, large)
    options = Options(
        eps=eps,
        stages=(setting["stage"].removesuffix(", proved"),),
        assurance=assurance,
        branch_seconds=1.0,
        batch_size=large,
        device=setting["device"],
        self_check=False,
    )
    certifier = prepare(network, options, dataset=data).certifier
    footprint = Footprint.of(certifier.program, proved=assurance != "estimate")
    start, peaks = Peak.of(certifier.program.device), []
    for size in (small, large):
        (batch,) = data.batches(range(size), size)
        result = certifier(batch.images, batch.labels, batch.indices)
        peaks.append(start.mebibytes)
    return {
        "peaks": peaks,
        "estimate": footprint.bytes(large) / 2**20,
        "an_image": (peaks[1] - peaks[0]) / (large - small),
        "seen": result.stages[-1].seen,
        "decided": result.stages[-1].decided,
    }


def _question(setting: dict[str, Any], images: int) -> tuple[Network, Dataset]:
    """The network, and the first images with its own answers as labels."""
    name = setting["network"]
    if name in RANDOM:
        network = RANDOM[name]()
        pixels, labels = images_of(network, images)
        return network, images_and_labels(torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels))
    root = Path(setting["data_root"])
    network = load(root / "reference" / f"{name}.onnx")
    (batch,) = load_dataset("cifar10", root=root).batches(range(images), images)
    return network, images_and_labels(batch.images, network(batch.images).argmax(1))


def _line(row: dict[str, Any]) -> str:
    peak, estimate = row["peaks"][1], row["estimate"]
    figures = f"{peak:.0f} | {estimate:.0f} | {peak / estimate:.2f} | {row['an_image']:.2f}"
    return f"| {row['network']} | {row['stage']} | {row['batches'][1]} | {figures} |"


if __name__ == "__main__":
    main()
