"""How many certified images the file itself answers otherwise: at the image, or at the worst point an attack meets.

    python benchmarks/contradictions.py [--data-root ../shared/data] [--seconds 60] [--graphs 500] [--only NAME]

Over the networks of models/, those that others trained (`models/index.json` under the data root), and random graphs of
the tests, written as files. The stages are global and local, the assurance is `deterministic`, eps is chosen so that
about half of the first images are certified. Every certified image is attacked over all of its ball, and the file's own
bytes are run at the image and at the attack's worst point, with onnxruntime's optimiser and without. Writes
results/contradictions.json after every network and goes on where it was. Needs the folder tests/.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llcert.api import images_and_labels, load
from llcert.certification import FIRST, PGD, Adversary, AttackLoss, Perturbations, Sample, Verdict
from llcert.data import load_dataset
from llcert.data.dataset import Examples
from llcert.errors import LlcertError
from llcert.frontend.onnx_file import save
from llcert.ir import Network
from llcert.options import Options
from llcert.runs.prepare import Certification, prepare

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "contradictions.json"
OWN = (
    ("digits_relu", "digits"),
    ("digits_relu_theta", "digits"),
    ("digits_maxmin_clipped", "digits"),
    ("digits_residual_bn", "digits"),
    ("mnist_mlp_maxmin", "mnist"),
)
BATCH = 20
IMAGES = 20
"""Of a random graph."""


@dataclass
class Counts:
    """images: that were looked at. certified: of them. image, worst: certified ones that the file answers otherwise."""

    images: int = 0
    certified: int = 0
    image: int = 0
    worst: int = 0

    def add(self, other: Counts) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


Prepared = Callable[[str, tuple[str, ...], str, bool, int], Certification]
"""A job, given eps, stages, assurance, whether radii are searched, and of how many images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, for each trained network")
    parser.add_argument("--graphs", type=int, default=500, help="how many random graphs of each of two kinds")
    parser.add_argument("--only", default="", help="networks whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name, prepared in trained(arguments.data_root):
        if arguments.only in name and (name not in known or arguments.only):
            known[name] = told(name, lambda prepared=prepared: of_network(prepared, arguments.seconds))
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    for kind in ("random_network", "shared_network"):
        name = f"{arguments.graphs} of {kind}"
        if arguments.only in name and (name not in known or arguments.only):
            known[name] = told(name, lambda kind=kind: of_graphs(kind, arguments.graphs))
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    total = Counts()
    for row in known.values():
        if "refused" not in row:
            total.add(Counts(**{k: v for k, v in row.items() if k != "eps"}))
    wrong = f"answered otherwise at {total.image} images and at {total.worst} worst points"
    print(f"all: {total.certified:,} certified of {total.images:,}; {wrong}")


def told(name: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row, which is printed; the refusal where there is one."""
    try:
        row = measured()
    except LlcertError as refusal:
        row = {"refused": str(refusal)}
    print(f"{name}: {row}", flush=True)
    return row


def trained(root: Path) -> Iterator[tuple[str, Prepared]]:
    """Every trained network for which there are data."""
    for name, data in OWN:
        yield name, file_jobs(HERE.parent / "models" / f"{name}.onnx", data, root, {})
    index = root / "models" / "index.json"
    for entry in json.loads(index.read_text()) if index.exists() else ():
        if entry["data"] is not None:
            yield entry["file"], file_jobs(root / "models" / entry["file"], entry["data"], root, entry)


def file_jobs(path: Path, data: str, root: Path, entry: dict[str, Any]) -> Prepared:
    """Jobs of a file on a data set."""

    def prepared(eps: str, stages: tuple[str, ...], assurance: str, radius: bool, images: int) -> Certification:
        dataset = load_dataset(data, root=root)
        network = replace(load(path), metadata={})
        front = {k: tuple(entry[k]) for k in ("mean", "std") if entry.get(k)}
        options = Options(
            eps=eps,
            stages=stages,
            assurance=assurance,
            radius=radius,
            samples=str(min(images, len(dataset.labels))),
            batch_size=BATCH,
            layout=entry.get("layout"),
            **front,
        )
        return prepare(network, options, model=str(path), dataset=dataset)

    return prepared


def of_network(prepared: Prepared, seconds: float) -> dict[str, Any]:
    """The counts of as many images as fit into the time."""
    eps = radius_of_half(prepared)
    job = prepared(str(eps), ("global", "local"), "deterministic", False, 10**9)
    counts, begun = Counts(), time.process_time()
    for number in range(job.batches):
        counts.add(of_batch(job, number))
        if time.process_time() - begun > seconds:
            break
    return {"eps": eps, **asdict(counts)}


def radius_of_half(prepared: Prepared) -> float:
    """At which half of the first images that are answered rightly are certified, by estimates."""
    radii = [s.radius for s in samples(prepared, 0.001, radius=True) if s.verdict is not Verdict.MISCLASSIFIED]
    finite = sorted(r for r in radii if r is not None and 0 < r < float("inf"))
    eps = finite[len(finite) // 2] if finite else 0.1
    for _ in range(6):  # what bounds a radius is closer than the stages
        if 2 * sum(s.verdict is Verdict.CERTIFIED for s in samples(prepared, eps)) >= len(radii):
            break
        eps *= 0.7
    return float(f"{eps:.3g}")


def samples(prepared: Prepared, eps: float, *, radius: bool = False) -> list[Sample]:
    """The first images, by estimates."""
    job = prepared(str(eps), ("global", "local"), "estimate", radius, BATCH)
    return [sample for result in job.results() for sample in result.samples]


def of_batch(job: Certification, number: int) -> Counts:
    """The counts of one batch of a job."""
    result = job.result(number)
    (batch,) = job.dataset.batches(job.indices[number * BATCH : (number + 1) * BATCH], BATCH)
    kept = torch.tensor([s.verdict is Verdict.CERTIFIED for s in result.samples])
    certified = Examples(*(getattr(batch, name)[kept] for name in ("images", "labels", "indices")))
    counts = Counts(images=len(kept), certified=int(kept.sum()))
    if counts.certified:
        network = job.certifier.network
        counts.image = int(otherwise(network, certified.images, certified.labels).sum())
        counts.worst = int(otherwise(network, worst_points(job, certified), certified.labels).sum())
    return counts


def worst_points(job: Certification, batch: Examples) -> Tensor:
    """Where an attack over the whole balls comes nearest to another answer."""
    network, program = job.certifier.network, job.certifier.program
    assert network.original is not None
    radii = torch.full((len(batch.images),), float(job.certifier.settings.eps), dtype=torch.float64)
    around = Perturbations.whole(batch.images, radii, program.dtype)
    attack = PGD(steps=30, restarts=2, loss=AttackLoss.MARGIN)
    return attack(Adversary(program, network.original.logits), around, batch.labels, batch.indices).points


def otherwise(network: Network, points: Tensor, labels: Tensor) -> Tensor:
    """Whether the file itself has another answer, or a tie, one way or another it may be run, `[points]`."""
    assert network.original is not None
    found = torch.zeros(len(points), dtype=torch.bool)
    for original in (network.original, *network.original.variants):
        found |= ~FIRST.holds(original.logits(points.to(network.input.dtype)).double(), labels, network.classes)
    return found


def of_graphs(kind: str, count: int) -> dict[str, Any]:
    """The counts of random graphs, on random images with the answer as label."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    make = getattr(__import__({"random_network": "random_graphs"}.get(kind, "shared_graphs")), kind)
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(count):
            path = Path(folder) / f"{seed}.onnx"
            try:
                save(make(seed), path)
                counts.add(of_graph(path, seed))
            except LlcertError as refusal:
                print(f"{kind} {seed}: {refusal}", flush=True)
    return asdict(counts)


def of_graph(path: Path, seed: int) -> Counts:
    """The counts of one random graph's file."""
    network = load(path)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(IMAGES, *network.input.shape, generator=generator)
    labels = network(images.to(network.dtype)).argmax(1)

    def prepared(eps: str, stages: tuple[str, ...], assurance: str, radius: bool, _: int) -> Certification:
        options = Options(eps=eps, stages=stages, assurance=assurance, radius=radius, batch_size=BATCH)
        return prepare(network, options, model=str(path), dataset=images_and_labels(images, labels))

    row = of_network(prepared, 1e9)
    return Counts(**{k: v for k, v in row.items() if k != "eps"})


if __name__ == "__main__":
    main()
