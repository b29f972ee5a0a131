"""The training runs of a picture, under the names that legends show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llcert.errors import InvalidInput
from llcert_train import metrics
from llcert_train.metrics import Epoch


@dataclass(frozen=True)
class Run:
    """A training run under the name that legends show."""

    label: str
    epochs: tuple[Epoch, ...]


def read_runs(folders: Sequence[Path], labels: Sequence[str] | None = None) -> tuple[Run, ...]:
    """The runs that lie in the folders, in their order, each under its label or else under its folder's name.

    Equal names get as many of the folders above as tell them apart. Raises InvalidInput for a folder without a readable
    run, a folder given twice, and labels that are empty, equal or not one a run.
    """
    if not folders:
        raise InvalidInput("no training run given; name the folder of one")
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInput(f"{folder}: not a folder; give the folder of a training run")
    full = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if full[i] in full[:i]:
            raise InvalidInput(f"{folder}: given twice")
    names = _folder_names(full) if labels is None else _checked_labels(labels, len(full))
    return tuple(Run(n, metrics.read(f / metrics.NAME)) for n, f in zip(names, folders, strict=True))


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """For each folder as much of the end of its path as no other folder's ends in."""
    names = []
    for folder in folders:
        others = [other.parts for other in folders if other != folder]
        lengths = range(1, len(folder.parts))
        tails = (folder.parts[-n:] for n in lengths if all(o[-n:] != folder.parts[-n:] for o in others))
        names.append("/".join(next(tails, ())) or str(folder))
    return names


def _checked_labels(labels: Sequence[str], runs: int) -> Sequence[str]:
    if len(labels) != runs:
        raise InvalidInput(f"labels: {len(labels)} for {runs} runs; give one a run, in their order")
    if not all(labels) or len(set(labels)) < runs:
        raise InvalidInput("labels: two are equal, or one is empty; a legend could not tell the runs apart")
    return labels
