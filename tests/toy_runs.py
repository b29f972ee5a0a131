"""Training runs that take a second: a small model file, a small data file, and how to go through them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toys import blobs_file

import llcert
from llcert.ir import Input, Network, apply
from llcert.ops import Conv, Linear, Reshape, relu
from llcert_train.folder import METRICS, TrainingFolder, open_folder
from llcert_train.job import Job, prepare
from llcert_train.loop import Planned, Step, train
from llcert_train.metrics import Epoch
from llcert_train.settings import Recipe
from llcert_train.task import Task, resolve
from llcert_train.team import Team
from llcert_train.trainer import Trainer

SMALL: Mapping[str, Any] = {
    "eps": "0.3",
    "epochs": 2,
    "batch": 16,
    "warm_up": 0.1,
    "ramp": 0.5,
    "rate": 0.01,
    "held_out": 12,
    "attack_steps": 2,
    "checkpoint": 1000.0,
    "keep_vectors": True,
}
"""5 steps an epoch on the 84 images that are left of 120."""


def small_network(seed: int = 0, *, classes: int = 3, metadata: Mapping[str, str] | None = None) -> Network:
    """Untrained, float32: two convolutions and two dense layers on images `[1, 4, 4]`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * torch.Size(shape[1:]).numel() ** -0.5

    node = apply(relu(), apply(Conv(normal(4, 1, 3, 3), torch.zeros(4), padding=(1, 1)), apply(Input((1, 4, 4)))))
    node = apply(relu(), apply(Conv(normal(4, 4, 4, 4), torch.zeros(4), (2, 2), (1, 1)), node))
    node = apply(relu(), apply(Linear(normal(8, 16), torch.zeros(8)), apply(Reshape((16,)), node)))
    logits = apply(Linear(normal(classes, 8), torch.zeros(classes)), node)
    return Network(logits, input_name="picture", output_name="scores", metadata=dict(metadata or {}))


def prepared(task: Task, recipe: Recipe, team: Team | None = None) -> Job:
    """The run of a task and a recipe, its data loaded."""
    resolved = resolve(task, recipe)
    return prepare(resolved, resolved.datasets(), team=team)


@dataclass(frozen=True)
class Asked:
    """A task and a recipe, which can be prepared any number of times, by one process or several."""

    task: Task
    recipe: Recipe
    team: Team = field(default_factory=Team)

    def job(self) -> Job:
        return prepared(self.task, self.recipe, self.team)

    def begun(self, out: Path, *, resume: bool = False) -> Run:
        """A run in its folder, which went on from the checkpoint that lies there."""
        folder, job = open_folder(out, resume=resume, overwrite=False, rank=self.team.rank), self.job()
        folder.begin(self.task.to_json(), job.recipe.to_json(), job.identity)
        try:
            state = folder.checkpoint() if folder.stored is not None else None
            if state is not None:
                job.trainer.restore(state)
            folder.adopt(job.recipe.to_json())
        except BaseException:
            folder.close()
            raise
        return Run(job, folder)


def rates_of(trainer: Trainer) -> list[float]:
    """Will hold the optimiser's rate at each of its steps from now on."""
    rates: list[float] = []
    step = trainer.optimiser.step

    def stepped() -> None:
        rates.append(trainer.optimiser.param_groups[0]["lr"])
        step()

    trainer.optimiser.step = stepped  # type: ignore[method-assign,assignment]
    return rates


@dataclass
class Run:
    """A job in its folder. told: what the loop said."""

    job: Job
    folder: TrainingFolder
    told: list[Planned | Step | Epoch] = field(default_factory=list)

    def go(self, steps: int | None = None) -> Run:
        """To the end, or until that many steps are done, and saves as the command line does when interrupted."""
        for event in train(self.job.trainer, self.job.watch, self.folder):
            self.told.append(event)
            if isinstance(event, Step) and event.done == steps:
                self.folder.save(self.job.trainer.state())
                break
        self.folder.close()
        return self

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The metrics without what depends on the clock."""
        return timeless_metrics(self.folder.path / METRICS)


def timeless_metrics(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") >= 0
        if line["train"] is not None:
            assert line["train"].pop("images_per_second") > 0
    return lines


def asked(folder: Path, *, new: bool = False, data: str | None = None, **recipe: Any) -> Asked:
    """A run on blobs: of `small_network`, or of a new network of the zoo. recipe: in place of some of SMALL."""
    data = data or str(blobs_file(folder / "data.npz", 40))
    model = None
    if not new:
        model = folder / "model.onnx"
        llcert.save(small_network(), model)
    return Asked(Task(model, device="cpu"), Recipe(**{**SMALL, "data": data, **recipe}))


def timeless_state(job: Job) -> dict[str, Any]:
    """The state of a trainer without what depends on the clock."""
    return {k: v for k, v in job.trainer.state().items() if k not in ("seconds", "epoch_began", "look")}


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def noted_calls(run: Run) -> list[tuple[float, float, float]]:
    """Radius, weight of the clean loss and rate of every step of a run to its end."""
    trainer, calls = run.job.trainer, []
    objective = trainer.model

    def noted(images: Tensor, labels: Tensor, radius: float, kappa: float, *rest: Any) -> Any:
        calls.append((radius, kappa))
        return objective(images, labels, radius, kappa, *rest)

    trainer.model = noted  # type: ignore[assignment]
    rates = rates_of(trainer)
    run.go()
    return [(radius, kappa, rate) for (radius, kappa), rate in zip(calls, rates, strict=True)]


def timeless_copy(trainer: Any) -> dict[str, Any]:
    state = {k: v for k, v in trainer.state().items() if k not in ("seconds", "epoch_began")}
    return copied(state)


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, list | tuple) else value
