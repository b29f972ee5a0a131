"""What each stage computes and moves, and how near that comes to what the machine can do.

    python benchmarks/roofline.py [--data-root ../shared/data] [--images 64] [--threads 1] [--device cpu]

The default run, stage by stage (6C2F: under `estimate`); `proof` is what the deterministic proof of its certificates
adds to a stage. Images run twice: once timed, once counted. Counted are the multiplications and additions of
convolutions and matrix products, as torch counts them, and the bytes that every operator reads and writes, as if none
stayed in a cache; factorisations (LAPACK, scipy) are not. An operator's floor is the longer of its operations over the
rate of a matrix product and its bytes over that of a copy as large as a value; a stage's share is the sum of floors
over its seconds. Writes results/roofline.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import ceilings, facts, synchronise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from llcert.api import load
from llcert.certification import Assurance, Batch, BoundsSoFar, Certifier, Finding, Settings, Verdict
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.proved_stage import ProvedStage
from llcert.certification.verdict import Stage
from llcert.data import Dataset, load_dataset
from llcert.ir import Network

RESULTS = Path(__file__).parent / "results" / "roofline.json"
NETWORKS = {
    "cifar_small_relu_theta": Assurance.DETERMINISTIC,
    "cifar_6c2f_relu_theta": Assurance.ESTIMATE,  # its proofs take far longer than all stages
}
EPS = 36 / 255
BATCH = 64


@dataclass
class Work:
    """What was done so far. gflop, gbyte: counted. floor: seconds, operator by operator."""

    seen: int = 0
    seconds: float = 0.0
    gflop: float = 0.0
    gbyte: float = 0.0
    floor: float = 0.0

    def __sub__(self, part: Work) -> Work:
        return Work(
            part.seen,
            self.seconds - part.seconds,
            self.gflop - part.gflop,
            self.gbyte - part.gbyte,
            self.floor - part.floor,
        )


class Counter(TorchDispatchMode):
    """Counts the operators that run inside. Entered after the counter of operations, whose count it reads."""

    def __init__(self, operations: FlopCounterMode, limits: Mapping[str, float], work: Work) -> None:
        super().__init__()
        self.operations, self.limits, self.work = operations, limits, work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.operations.get_total_flops()
        result = func(*args, **(kwargs or {}))
        gflop = 1e-9 * (self.operations.get_total_flops() - before)
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        gbyte = 0.0 if func.is_view else 1e-9 * sum(t.nbytes for t in tensors)
        wide = any(t.dtype == torch.float64 for t in tensors)
        peak = self.limits["gflops64" if wide else "gflops"]
        self.work.gflop += gflop
        self.work.gbyte += gbyte
        self.work.floor += max(gflop / peak, gbyte / self.limits["cached"])
        return result


@dataclass(frozen=True)
class Watched:
    """A stage whose work is noted. limits: of the machine, where operators are counted; None: timed."""

    stage: Stage
    work: Work
    limits: Mapping[str, float] | None

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def verdict(self) -> Verdict:
        return self.stage.verdict

    @property
    def possible_hints(self) -> tuple[ProofHint, ...]:
        """Of a stage that certifies; none of any other."""
        hints: tuple[ProofHint, ...] = getattr(self.stage, "possible_hints", ())
        return hints

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        with ExitStack() as stack:
            if self.limits is not None:
                operations = stack.enter_context(FlopCounterMode(display=False))
                stack.enter_context(Counter(operations, self.limits, self.work))
                return self.stage(batch, so_far)
            synchronise(batch.images.device)
            begun = time.perf_counter()
            finding = self.stage(batch, so_far)
            synchronise(batch.images.device)
            self.work.seconds += time.perf_counter() - begun
            self.work.seen += len(batch)
            return finding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stages", default="global,local,attack,crown-ball")
    parser.add_argument("--only", help="networks whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    limits = highest(ceilings(device) for _ in range(3))
    dataset = load_dataset("cifar10", root=arguments.data_root)
    result: dict[str, Any] = {"machine": facts(device), "ceilings": limits, "images": arguments.images, "networks": {}}
    print(", ".join(f"{name} {value:.1f}" for name, value in limits.items()))
    for name in (n for n in NETWORKS if not arguments.only or arguments.only in n):
        network = replace(load(arguments.data_root / "reference" / f"{name}.onnx"), metadata={})
        settings = Settings(eps=EPS, stages=tuple(arguments.stages.split(",")), assurance=NETWORKS[name])
        found = measured(network, settings, dataset, arguments.images, device, limits)
        result["networks"][name] = {stage: vars(work) for stage, work in found.items()}
        print(table(name, found, limits), flush=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def highest(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The highest of each of several measurements, of which other processes may have slowed one down."""
    rows = list(found)
    return {name: max(row[name] for row in rows) for name in rows[0]}


def measured(
    network: Network,
    settings: Settings,
    dataset: Dataset,
    images: int,
    device: torch.device,
    limits: Mapping[str, float],
) -> dict[str, Work]:
    """The work of every stage and of its proofs, by name."""
    works: dict[str, Work] = {}
    for counted in (None, limits):
        certifier = Certifier.of(network, settings, device)
        certifier = replace(certifier, stages=watched(certifier.stages, works, counted))
        for batch in dataset.batches(range(images), BATCH):
            certifier(batch.images, batch.labels, batch.indices)
    whole = {name: works.pop(name) for name in list(works) if name.endswith(" proved")}
    proofs = {
        f"{name.removesuffix(' proved')} proof": w - works[name.removesuffix(" proved")] for name, w in whole.items()
    }
    return {**works, **proofs}


def watched(stages: Sequence[Stage], works: dict[str, Work], limits: Mapping[str, float] | None) -> tuple[Stage, ...]:
    """The stages, each noting its work under its name, and what it takes with its proof under `NAME proved`."""

    def watch(stage: Stage, name: str) -> Watched:
        return Watched(stage, works.setdefault(name, Work()), limits)

    return tuple(
        watch(replace(s, stage=watch(s.stage, s.name)), f"{s.name} proved")
        if isinstance(s, ProvedStage)
        else watch(s, s.name)
        for s in stages
    )


def table(name: str, works: Mapping[str, Work], limits: Mapping[str, float]) -> str:
    """The work of one network's stages as lines."""
    lines = [
        name,
        "| stage | images | s | GFLOP | GFLOP/s | of products | GB/s | of a copy | roofline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stage, work in works.items():
        if work.seconds <= 0:
            continue
        flops, traffic = work.gflop / work.seconds, work.gbyte / work.seconds
        peak = limits["gflops64" if stage.endswith("proof") else "gflops"]
        shares = (flops / peak, traffic / limits["cached"], work.floor / work.seconds)
        product, copy, floor = (f"{100 * share:.0f} %" for share in shares)
        lines.append(
            f"| {stage} | {work.seen} | {work.seconds:.2f} | {work.gflop:.1f} | {flops:.1f} | {product} "
            f"| {traffic:.1f} | {copy} | {floor} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
