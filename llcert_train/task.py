"""What is trained, on which data, where: as the user asked, and resolved with a model's metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llcert.certification import Settings
from llcert.data import NAMED, Dataset, load_dataset
from llcert.data.store import Progress
from llcert.errors import InvalidInput
from llcert.frontend.load import load
from llcert.ir import Network
from llcert.options import Options
from llcert.runs.resolve import settings_of, with_metadata
from llcert_train.data import split_path
from llcert_train.settings import Recipe


@dataclass(frozen=True)
class Task:
    """What is trained, on what, where. model: a file, or None for a new network of the recipe's architecture.

    test_data: a path, beside a path of training data. mean, std, layout: of the images in front of the network.
    samples, stages, assurance: of the certification at the end, by default those of every certification.
    """

    model: Path | None
    test_data: str | None = None
    data_root: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    device: str | None = None
    samples: str | None = None
    stages: tuple[str, ...] | None = None
    assurance: str | None = None

    def filled(self, stored: Mapping[str, Any]) -> Task:
        """The task, its gaps filled from what an earlier run was asked. Raises InvalidInput for what no run wrote."""
        for name, value in stored.items():
            if name not in self.to_json() or not _sayable(name, value):
                raise InvalidInput(
                    f"--resume: {name[:40]!r} was not written by llcert's training; choose another folder"
                )
        gaps = {k: v for k, v in stored.items() if getattr(self, k) is None}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in gaps.items()}
        return dataclasses.replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """What was said, but for the model, whose content counts and not its place."""
        said = {k: v for k, v in dataclasses.asdict(self).items() if k != "model"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in said.items()}


_LISTS: Mapping[str, tuple[type, ...]] = {"mean": (int, float), "std": (int, float), "stages": (str,)}
"""Fields of a task that hold several values, and of which types."""


def _sayable(name: str, value: object) -> bool:
    """Whether a field of a task can hold a JSON value."""
    if value is None or name not in _LISTS:
        return value is None or isinstance(value, str)
    return isinstance(value, list) and all(type(v) in _LISTS[name] for v in value)


@dataclass(frozen=True)
class Resolved:
    """A task and a recipe whose gaps are filled with the model's metadata. network: of the model file, None for a new
    one. options, settings: of the certification at the end; the options name data and eps."""

    task: Task
    recipe: Recipe
    network: Network | None
    options: Options
    settings: Settings

    def datasets(self, progress: Progress | None = None) -> tuple[Dataset, Dataset]:
        """Training and test images. progress: see `llcert.data.load_dataset`."""
        name, task = self.options.data or "", self.task
        root = None if task.data_root is None else Path(task.data_root)
        if name in NAMED:
            if task.test_data is not None:
                raise InvalidInput(f"--test-data: {name} has a test set of its own; leave the option out")
            train, test = (load_dataset(name, split=s, root=root, progress=progress) for s in ("train", "test"))
            return train, test
        whole = load_dataset(name)
        if task.test_data is None:
            return split_path(whole, self.recipe.seed)
        return whole, load_dataset(task.test_data, split="test", root=root, progress=progress)


def resolve(task: Task, recipe: Recipe) -> Resolved:
    """Loads the model. Raises InvalidInput in one line where data or eps are named nowhere, and for what the
    certification at the end would refuse."""
    network = None if task.model is None else load(task.model)
    options = _options(task, recipe, network)
    return Resolved(task, recipe, network, options, settings_of(options, _subject(task, recipe)))


def _options(task: Task, recipe: Recipe, network: Network | None) -> Options:
    """What was asked, its gaps filled by the model's metadata; data and eps are known afterwards."""
    options = Options(
        eps=recipe.eps or None,
        data=recipe.data or None,
        data_root=task.data_root,
        mean=task.mean,
        std=task.std,
        layout=task.layout,
        device=task.device,
        samples=task.samples,
        stages=task.stages,
        assurance=task.assurance,
    )
    if network is not None:
        options = with_metadata(options, network)
    subject = _subject(task, recipe)
    if options.data is None:
        raise InvalidInput(f"{subject} names no data: give --data ({', '.join(NAMED)}, or a path)")
    if options.eps is None:
        raise InvalidInput(f"{subject} names no eps: give --eps, an L2 radius in pixel units such as 36/255")
    return options


def _subject(task: Task, recipe: Recipe) -> str:
    """What errors call the thing that is trained."""
    return str(task.model or recipe.arch or "the recipe")
