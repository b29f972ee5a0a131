"""How many products a norm takes, and how near its convolutions come to what the machine can do.

    python benchmarks/solvers.py [--data-root ../shared/data] [--images 16] [--threads 1]

First table: products with a masked convolution or its adjoint until the estimate is within 1e-3 of the norm, by power
iteration and by Lanczos from the same random starts; the norm itself by Lanczos to 1e-6. Second table: the rate of
convolutions while Lanczos runs on the layers of `cifar_6c2f_relu_theta`, over that of the same two convolutions alone
on the same shapes, and what the rest of the time goes to. Writes results/solvers.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import ceilings, facts, fastest
from torch import Tensor

from llcert.api import load
from llcert.bounds import EstimatedArithmetic, global_bound, propagate
from llcert.data import load_dataset
from llcert.domain.region import ball
from llcert.numerics.tensors import channels_last, length
from llcert.program import Program, lower
from llcert.spectral import Lanczos, Masked, Norm, random_start
from llcert.spectral.estimate.lanczos import Bidiagonalisation

RESULTS = Path(__file__).parent / "results" / "solvers.json"
NETWORKS = (
    ("cifar_6c2f_relu_theta", "cifar10", 36 / 255),
    ("cifar_small_relu_theta", "cifar10", 36 / 255),
    ("mnist_small_relu_theta", "mnist", 0.8),
    ("mnist_small_maxmin", "mnist", 0.8),
)
ACCURACY = 1e-3
MOST = 3000
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"machine": facts(), "ceilings": ceilings(), "images": arguments.images, "products": []}
    with torch.no_grad():
        for name, data, eps in NETWORKS:
            program = lower(load(arguments.data_root / "reference" / f"{name}.onnx"))
            images = _images(arguments.data_root, data, arguments.images)
            maps = [m for m in _maps(program, images, eps) if m.columns.ndim == 4 and m.rows.ndim == 4]
            result["products"] += [{"network": name, **_products(m)} for m in maps]
            if name == NETWORKS[0][0]:
                result["rates"] = [_rate(m) for m in maps]
    ratios = [r for row in result["products"] for r in row["ratios"]]
    result["median_ratio"] = median(ratios)
    print(_table(result))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def _images(root: Path, data: str, count: int) -> Tensor:
    (batch,) = load_dataset(data, root=root).batches(range(count), count)
    return channels_last(batch.images)


class _Collector:
    """A solver that keeps the maps it is asked about."""

    def __init__(self) -> None:
        self.maps: list[Masked] = []

    def __call__(self, masked: Masked, start: Tensor) -> Norm:
        self.maps.append(masked)
        return Lanczos(1e-5)(masked, start)


def _maps(program: Program, images: Tensor, eps: float) -> list[Masked]:
    """The masked map of every layer."""
    collector = _Collector()
    propagate(program, ball(images, eps), EstimatedArithmetic(global_bound(program), solver=collector))
    return collector.maps


def _products(masked: Masked) -> dict[str, Any]:
    """Products of each image until both methods are accurate, from the same start."""
    start = random_start(tuple(masked.columns.shape), masked.columns, 0)
    enough = Lanczos(1e-6)(masked, start).value * (1 - ACCURACY)
    power, lanczos = _power(masked, start, enough), _lanczos(masked, start, enough)
    ratios = [b / a for a, b in zip(power, lanczos, strict=True)]
    shape = f"{list(masked.columns.shape[1:])} -> {list(masked.rows.shape[1:])}"
    return {"layer": shape, "power": median(power), "lanczos": median(lanczos), "ratios": ratios}


def _power(masked: Masked, start: Tensor, enough: Tensor) -> list[int]:
    u = start * masked.columns
    needed = torch.full((masked.batch,), 2 * MOST)
    for count in range(1, MOST + 1):
        u = u / length(u).reshape(-1, 1, 1, 1)
        image = masked.apply(u)
        size = length(image)
        u = masked.adjoint(image / size.reshape(-1, 1, 1, 1))
        needed = torch.where((needed == 2 * MOST) & (length(u) >= enough), 2 * count, needed)
        if bool((needed < 2 * MOST).all()):
            break
    return [int(n) for n in needed]


def _lanczos(masked: Masked, start: Tensor, enough: Tensor) -> list[int]:
    first = start * masked.columns
    state = Bidiagonalisation.of(masked, first / length(first).reshape(-1, 1, 1, 1))
    needed = torch.full((masked.batch,), 2 * MOST)
    for count in range(1, MOST + 1):
        state.step()
        needed = torch.where((needed == 2 * MOST) & (state.largest()[0] >= enough), 2 * count, needed)
        if bool((needed < 2 * MOST).all()):
            break
    return [int(n) for n in needed]


def _rate(masked: Masked) -> dict[str, Any]:
    """Seconds of a step of Lanczos, of its two convolutions alone, and of the parts of the rest."""
    first = channels_last(random_start(tuple(masked.columns.shape), masked.columns, 0) * masked.columns)
    first = first / length(first).reshape(-1, 1, 1, 1)
    image = channels_last(masked.map.apply(first))

    def steps() -> None:
        state = Bidiagonalisation.of(masked, first)
        for _ in range(STEPS):
            state.step()
        state.largest()

    whole = fastest(steps) / STEPS
    apply, adjoint = fastest(lambda: masked.map.apply(first)), fastest(lambda: masked.map.adjoint(image))
    masks = fastest(lambda: (first * masked.columns, image * channels_last(masked.rows)))
    return {
        "layer": f"{list(masked.columns.shape[1:])} -> {list(masked.rows.shape[1:])}",
        "step": whole,
        "convolutions": apply + adjoint,
        "share": (apply + adjoint) / whole,
        "masks": masks / whole,
        "rest": 1 - (apply + adjoint + masks) / whole,
    }


def _table(result: dict[str, Any]) -> str:
    lines = ["| network | layer | power | Lanczos | median ratio |", "|---|---|---|---|---|"]
    for row in result["products"]:
        lines.append(
            f"| {row['network']} | {row['layer']} | {row['power']} | {row['lanczos']} | {median(row['ratios']):.3f} |"
        )
    lines += ["", f"median over layers and images: {result['median_ratio']:.3f}", ""]
    lines += ["| layer of 6C2F | step, ms | convolutions | masks | recurrence and lengths |", "|---|---|---|---|---|"]
    for row in result["rates"]:
        parts = (f"{100 * row[k]:.0f} %" for k in ("share", "masks", "rest"))
        lines.append(f"| {row['layer']} | {1e3 * row['step']:.2f} | {' | '.join(parts)} |")
    total, alone = (sum(row[k] for row in result["rates"]) for k in ("step", "convolutions"))
    lines += ["", f"all layers: {100 * alone / total:.0f} % of the rate of the convolutions alone"]
    return "\n".join(lines)


if __name__ == "__main__":
    begun = time.perf_counter()
    main()
    print(f"{time.perf_counter() - begun:.0f} s")
