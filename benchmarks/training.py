"""What a certified training step costs, and where its time goes.

    python benchmarks/training.py [cifar10-6c2f-cpu mnist-4c3f] [--batch 32] [--steps 5] [--device cpu]

For each recipe, at the end of its ramp, on one batch, the recipe's own on a GPU and where no image has norms of its
own: seconds a step of llcert's trainer, the median of a few, next to the steps of its rivals, taken in turns: the plain
step (cross-entropy, Adam); where no image has norms of its own, the global bound and its gradient alone; else the
paper's step written down plainly (paper_step.py) with the recipe's iterations from saved vectors and with ten from
random starts, which train about as well (the paper's Table 1), and llcert's own step with torch's derivatives in place
of those of llcert/numerics/gradients.py.
The rivals work on one batch that is ready for use; llcert also fetches images, crops, flips and keeps its vectors.
An epoch is extrapolated from the step. Shares come from steps of their own, for which a GPU is waited for at every
border. Memory is that of a process of its own, above what it has before its first step. Images are random unless there
is a data root. Writes results/training.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from machine import facts, synchronise
from paper_step import PaperStep
from torch import nn

from llcert.api import from_torch
from llcert.data import load_dataset
from llcert.data.dataset import subset
from llcert.errors import LlcertError
from llcert.numerics import gradients
from llcert.numerics.products import full_precision
from llcert.program import lower
from llcert.runs.resolve import device_of
from llcert_train import objective
from llcert_train.data import TrainingData
from llcert_train.precision import settle
from llcert_train.schedules import Schedule
from llcert_train.settings import Loss, Recipe, positive_eps, read_recipe
from llcert_train.trainer import Trainer
from llcert_train.weights import Weights
from llcert_train.zoo import ActivationKind, build

RESULTS = Path(__file__).parent / "results" / "training.json"
RECIPES = ("cifar10-6c2f-cpu", "cifar10-6c2f", "mnist-4c3f")
SETS = {
    "mnist": ((1, 28, 28), 10, 60_000),
    "cifar10": ((3, 32, 32), 10, 50_000),
    "tiny-imagenet": ((3, 64, 64), 200, 100_000),
}
"""Of each data set: shape of an image, classes, training images."""
OURS, PLAIN, BOUND, SAVED, RANDOM, DERIVATIVES = (
    "llcert",
    "plain step",
    "llcert's global bound and its gradient alone",
    "paper, saved vectors",
    "paper, random starts",
    "llcert, torch's derivatives",
)
RANDOM_ITERATIONS = 10
CPU_BATCH = 32
Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, help="recipes that come with llcert, or TOML files")
    parser.add_argument("--batch", type=_count, help=f"images a step; {CPU_BATCH} on a processor, else the recipe's")
    parser.add_argument("--steps", type=_count, default=5)
    parser.add_argument("--threads", type=_count, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        device = device_of(arguments.device)
        cases = {name: Case.of(name, arguments.batch, arguments.data_root, device) for name in arguments.recipes}
    except LlcertError as error:
        parser.error(str(error))
    if arguments.memory_of:
        (case,) = cases.values()
        print(_memory(case, arguments.memory_of))
        return
    result: dict[str, Any] = {"machine": facts(device), "recipes": {}}
    for name, case in cases.items():
        result["recipes"][name] = row = measured(case, arguments.steps)
        row["mebibytes"] = {way: _memory_apart(name, way, arguments) for way in row["seconds"]}
        print(table(name, row), flush=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: give a whole number above 0")
    return int(text)


@dataclass(frozen=True)
class Case:
    """A recipe at the end of its ramp, and images to train it on: one batch."""

    recipe: Recipe
    data: TrainingData
    device: torch.device

    @staticmethod
    def of(name: str, batch: int | None, root: Path | None, device: torch.device) -> Case:
        """Raises InvalidInput for an unknown recipe, and for one without data or architecture."""
        recipe = read_recipe(name)
        if recipe.data not in SETS or not recipe.arch:
            raise LlcertError(f"recipe {name}: names no architecture and none of {', '.join(SETS)}; choose another")
        costly = device.type == "cpu" and not _plain(recipe)
        batch = batch or (CPU_BATCH if costly else recipe.batch)
        recipe = recipe.changed(
            {"batch": batch, "warm_up": 0.0, "ramp": 0.0, "epochs": max(1, recipe.epochs), "minutes": 0.0}
        )
        return Case(recipe, _images(recipe, root, device), device)

    def ways(self) -> dict[str, Step]:
        """A step of each way to train, on networks of their own."""
        ways: dict[str, Step] = {OURS: self.trainer().train_step, PLAIN: self._plain()}
        if _plain(self.recipe):
            if objective.method_of(self.recipe).balls is not None:
                ways[BOUND] = self._bound()
            return ways
        if self.recipe.activation == ActivationKind.RELU_THETA:
            ways[SAVED] = self._paper(self.recipe.iterations, saved=True)
            ways[RANDOM] = self._paper(RANDOM_ITERATIONS, saved=False)
        ways[DERIVATIVES] = _with_derivatives_of_torch(self.trainer().train_step)
        return ways

    def trainer(self) -> Trainer:
        """llcert's."""
        shape, _, _ = SETS[self.recipe.data]
        network = from_torch(self._network().cpu(), torch.zeros(1, *shape))
        weights = Weights.of(network, self.device)
        schedule = Schedule(self.recipe, positive_eps(self.recipe.eps))
        trainer = Trainer(weights, lower(weights.network, self.device), self.recipe, schedule, self.data)
        settle(trainer)
        return trainer

    def _network(self) -> nn.Sequential:
        shape, classes, _ = SETS[self.recipe.data]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            network = build(self.recipe.arch, input_shape=shape, classes=classes, activation=self.recipe.activation)
        return network.to(self.device)

    def _plain(self) -> Step:
        network, (images, labels) = self._network(), self.data.batch(torch.arange(len(self.data)))
        optimiser = torch.optim.Adam(network.parameters())

        def step() -> None:
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()

        return _in_full_precision(step)

    def _bound(self) -> Step:
        """The part of a step that is the same whatever the batch."""
        trainer = self.trainer()

        def step() -> None:
            bound = trainer.objective._bound(trainer.unmasked)
            for leaf in trainer.weights.leaves.values():
                leaf.grad = None
            (bound.logit_lipschitz if bound.pairs is None else bound.pairs.sum()).backward()

        return _in_full_precision(step)

    def _paper(self, iterations: int, *, saved: bool) -> Step:
        images, labels = self.data.batch(torch.arange(len(self.data)))
        radius = Schedule(self.recipe, positive_eps(self.recipe.eps)).radius(1.0)
        step = PaperStep(self._network(), radius, iterations, self.recipe.loss is Loss.LOCAL_LIP_G, saved)
        return _in_full_precision(lambda: step(images, labels))


def _plain(recipe: Recipe) -> bool:
    """Whether its steps take no bounds but global ones, which the paper has no rival to."""
    return objective.method_of(recipe).needs_no_pass


def _images(recipe: Recipe, root: Path | None, device: torch.device) -> TrainingData:
    """The first images of a training set, or random ones."""
    shape, classes, _ = SETS[recipe.data]
    if root is not None:
        whole = load_dataset(recipe.data, split="train", root=root, download=False)
        return TrainingData.of(subset(whole, np.arange(recipe.batch), "train"), device)
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (recipe.batch, *shape), dtype=torch.uint8, generator=source)
    labels = torch.randint(classes, (recipe.batch,), generator=source)
    return TrainingData(pixels.to(device), labels.to(device), 255.0, device)


def _in_full_precision(step: Step) -> Step:
    def run() -> None:
        with full_precision():
            step()

    return run


def _with_derivatives_of_torch(step: Step) -> Step:
    def run() -> None:
        with patch.object(gradients, "_differentiated", lambda *_: False):
            step()

    return run


def measured(case: Case, steps: int) -> dict[str, Any]:
    """One recipe's figures: seconds of each way, the median of a few steps taken in turns after two, and shares."""
    ways = case.ways()
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(2 + steps):
        for way, step in ways.items():
            seconds = _seconds(step, case.device)
            if number >= 2:
                taken[way].append(seconds)
    medians = {way: statistics.median(each) for way, each in taken.items()}
    trained_on = SETS[case.recipe.data][2] - case.recipe.held_out
    return {
        "batch": case.recipe.batch,
        "epoch_images": trained_on,
        "seconds": medians,
        "ratios": {way: seconds / medians[OURS] for way, seconds in medians.items()},
        "epoch_seconds": medians[OURS] * trained_on / case.recipe.batch,
        "shares": shares(case, steps),
    }


def _seconds(step: Step, device: torch.device) -> float:
    synchronise(device)
    begun = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - begun


@dataclass
class Clock:
    """Seconds of parts of a step, each without the parts inside it."""

    device: torch.device
    spent: dict[str, float] = field(default_factory=dict)
    _open: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Whatever happens inside belongs to the part."""
        synchronise(self.device)
        begun = time.perf_counter()
        self._open.append(0.0)
        yield
        synchronise(self.device)
        whole = time.perf_counter() - begun
        self.spent[name] = self.spent.get(name, 0.0) + whole - self._open.pop()
        if self._open:
            self._open[-1] += whole

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a part."""

        def run(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return run


def shares(case: Case, steps: int) -> dict[str, float]:
    """What parts of llcert's step take of it, dimensionless.

    Norms: all products with vectors, those with a gradient too. Boxes: the rest of the forward pass of the bounds,
    masks and balls as well. Network: its forward pass where it is one of its own. Rest: images, saved vectors, margins,
    loss, optimiser.
    """
    trainer, clock = case.trainer(), Clock(case.device)
    for _ in range(2):
        trainer.train_step()
    with ExitStack() as stack:
        for owner, name, part in (
            (trainer.objective, "solver", "norms"),
            (trainer.objective, "_bound", "norms"),
            (trainer.objective, "_logits", "network"),
            (objective, "propagate", "boxes"),
            (trainer, "_gradient", "backward"),
        ):
            stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        for _ in range(steps):
            with clock.part("rest"):
                trainer.train_step()
    total = sum(clock.spent.values())
    return {name: spent / total for name, spent in clock.spent.items()}


def _memory_apart(name: str, way: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, name, "--memory-of", way, "--device", arguments.device]
    command += ["--threads", str(arguments.threads)]
    command += [] if arguments.batch is None else ["--batch", str(arguments.batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _memory(case: Case, way: str) -> float:
    """MiB that two steps take above what there was before."""
    step, before = case.ways()[way], _peak(case.device)
    step()
    step()
    return _peak(case.device) - before


def _peak(device: torch.device) -> float:
    """The most memory there has been, in MiB, of the device or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")  # where there is one: the other peak is at least that of the parent
    lines = status.read_text().splitlines() if status.exists() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return (own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def table(name: str, row: dict[str, Any]) -> str:
    """One recipe's figures as lines."""
    lines = [f"{name}, batch {row['batch']}", "", "| step | seconds | of llcert's | MiB |", "|---|---|---|---|"]
    lines += [
        f"| {way} | {seconds:.3f} | {row['ratios'][way]:.2f} | {row['mebibytes'][way]:,.0f} |"
        for way, seconds in row["seconds"].items()
    ]
    parts = ", ".join(f"{part} {100 * share:.0f} %" for part, share in row["shares"].items())
    epoch = f"an epoch of {row['epoch_images']:,} images, extrapolated: {row['epoch_seconds'] / 60:.1f} minutes"
    return "\n".join([*lines, "", f"llcert's step: {parts}; {epoch}", ""])


if __name__ == "__main__":
    main()
