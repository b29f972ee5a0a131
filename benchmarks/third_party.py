"""Which networks other people trained are imported, how far they agree with onnxruntime, and how often they are right.

    python benchmarks/third_party.py [--data-root ../shared/data] [--samples 1000]

Prints the table of docs/models.md and writes results/third_party.json. `models/index.json` under the data root says
what each file is.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import torch

from llcert.api import load
from llcert.data import Dataset, load_dataset
from llcert.errors import LlcertError
from llcert.frontend.adapt import behind, preprocessing
from llcert.frontend.comparison import compared

COMPARED = 5
RESULTS = Path(__file__).parent / "results" / "third_party.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    root = arguments.data_root / "models"
    data = functools.cache(lambda name: load_dataset(name, root=arguments.data_root))
    rows = []
    print(f"| file | operators | agreement | accuracy, first {arguments.samples:,} | published, all |")
    print("|---|---|---|---|---|")
    for entry in json.loads((root / "index.json").read_text()):
        dataset = data(entry["data"]) if entry["data"] else None
        row = measured(root / entry["file"], entry, dataset, arguments.samples)
        rows.append({"file": entry["file"], **row})
        print(line(entry, row), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"samples": arguments.samples, "files": rows}, indent=1) + "\n")


def measured(path: Path, entry: dict[str, Any], dataset: Dataset | None, samples: int) -> dict[str, Any]:
    """What becomes of one file: a refusal, or its operators, its agreement with onnxruntime and its accuracy."""
    try:
        network = load(path)
    except LlcertError as refusal:
        return {"refused": str(refusal)}
    operators = [n.op.label for n in network.operators()]
    if dataset is None:
        return {"operators": operators}
    front, _ = preprocessing(network, dataset.image_shape, layout=entry["layout"], mean=entry["mean"], std=entry["std"])
    (first,) = dataset.batches(range(COMPARED), COMPARED)
    adapted = behind(front, network)
    agreement = compared(adapted, first.images)
    with torch.no_grad():
        batches = dataset.batches(range(samples), 250)
        right = sum(int((adapted(b.images).argmax(1) == b.labels).sum()) for b in batches)
    return {"operators": operators, "difference": agreement.difference, "accuracy": right / samples}


def line(entry: dict[str, Any], row: dict[str, Any]) -> str:
    """One row of the table."""
    if "refused" in row:
        return f"| `{entry['file']}` | refused: {row['refused']} | | | |"
    counted = [(name, row["operators"].count(name)) for name in dict.fromkeys(row["operators"])]
    operators = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counted)
    published = entry["clean_accuracy_10k"]
    return f"| `{entry['file']}` | {operators} | {row['difference']:.0e} | {row['accuracy']:.1%} | {published:.2%} |"


if __name__ == "__main__":
    main()
