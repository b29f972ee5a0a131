"""The Tiny-ImageNet recipe from end to end, in small: 20 classes, half of the validation images to train on.

    python benchmarks/tiny_imagenet.py [--data-root ../shared/data] [--work runs/tiny-imagenet] [--epochs 120]

The training set of Tiny-ImageNet is 200 times as large, so no figure here compares with the paper's. Runs
`llcert train --recipe tiny-imagenet-8c2f 8C2F-light` on 500 images of 64 x 64 pixels, certifies the network on 500
others by the global bound and by the local one, prints both and writes results/tiny_imagenet.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from comparison import certified, llcert
from machine import facts

from llcert.data import load_dataset

RESULTS = Path(__file__).parent / "results" / "tiny_imagenet.json"
CLASSES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-imagenet"))
    parser.add_argument("--epochs", type=int, default=120)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    prepare(arguments.data_root, arguments.work)
    out, data = arguments.work / "run", (arguments.work / "train.npz", arguments.work / "test.npz")
    if not (out / "model.md").exists():
        words = (
            "train",
            "8C2F-light",
            "--recipe",
            "tiny-imagenet-8c2f",
            "--data",
            str(data[0]),
            "--test-data",
            str(data[1]),
            "--epochs",
            str(arguments.epochs),
            "--batch",
            "50",
            "--held-out",
            "50",
            "--stages",
            "global",
            "--assurance",
            "estimate",
            "--resume",
            "--out",
            str(out),
        )
        llcert(*words, log=arguments.work / "run.log")
    asked = (("global", "global"), ("local", "local"), ("cascade", None))
    found = {
        name: certified(out, ("--data", str(data[1]), "--eps", "36/255"), name, stages, "0:500")
        for name, stages in asked
    }
    for name, shares in found.items():
        print(f"{name:8} " + "  ".join(f"{key} {value:.1f} %" for key, value in shares.items()))
    RESULTS.write_text(json.dumps({"machine": facts(), "epochs": arguments.epochs, "shares": found}, indent=1) + "\n")


def prepare(root: Path, work: Path) -> None:
    """Writes the images of the first classes, every other one to train on."""
    if (work / "test.npz").exists():
        return
    data = load_dataset("tiny-imagenet", split="test", root=root)
    chosen = np.flatnonzero(np.asarray(data.labels) < CLASSES)
    for split, indices in (("train", chosen[::2]), ("test", chosen[1::2])):
        (batch,) = data.batches(indices.tolist(), len(indices))
        pixels = (batch.images.numpy() * 255).round().astype(np.uint8)
        np.savez(work / f"{split}.npz", x=pixels, y=batch.labels.numpy())


if __name__ == "__main__":
    main()
