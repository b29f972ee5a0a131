"""The folder of a training run: `run.json` what was asked, `metrics.jsonl` one line an epoch, `checkpoint.pt` the state
to go on from, and at the end, in its place, `finished.pt`, from which the run can be extended, with `model.onnx`, its
card `model.md`, and `certify/`, the run that certified it."""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch

from llcert.data.reading import reading
from llcert.errors import InvalidInput
from llcert.machine.files import (
    dump,
    file_sha256,
    first_difference,
    is_vacant,
    lock,
    part_of,
    write_atomically,
)
from llcert.options import with_stage_names
from llcert.runs.run_directory import FILES as CERTIFY_FILES
from llcert.runs.run_directory import RUN as CERTIFY_RUN
from llcert_train.metrics import Epoch, read
from llcert_train.settings import Recipe

FORMAT = "llcert training 1"
RUN, METRICS, CHECKPOINT, FINISHED, MODEL, CARD, CERTIFY = (
    "run.json",
    "metrics.jsonl",
    "checkpoint.pt",
    "finished.pt",
    "model.onnx",
    "model.md",
    "certify",
)
CHANGEABLE = (
    "epochs",
    "minutes",
    "rate",
    "final_rate",
    "clip_gradient",
    "checkpoint",
    "keep_vectors",
    "evaluate",
)
"""Fields of the recipe that a run may go on with another value of."""

_LOCK = ".lock"
FILES = (CARD, MODEL, CHECKPOINT, FINISHED, METRICS)
_OTHERS = re.compile(r"checkpoint\.[0-9]+\.pt")


@dataclass(frozen=True)
class Stored:
    """What `run.json` says: the task and the recipe, and what else a run that goes on must agree with."""

    task: Mapping[str, Any]
    recipe: Mapping[str, Any]
    identity: Mapping[str, Any]


@dataclass
class TrainingFolder:
    """A folder while a run writes to it. Make one with `open_folder`.

    rank: each process has its own checkpoint. replaces: whether an earlier run is removed as this one begins.
    """

    path: Path
    stored: Stored | None = None
    rank: int = 0
    replaces: bool = False
    _lock: IO[bytes] | None = None
    _saved: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def certify(self) -> Path:
        return self.path / CERTIFY

    def begin(self, task: Mapping[str, Any], recipe: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Creates the folder, or checks that the run in it is the same; keeps other processes out of it.

        The recipe of a run that lies here stays as it is until `adopt`. Raises InvalidInput naming the first difference
        to it.
        """
        if self.stored is not None:
            before = dict(self.stored.recipe) | dict(self.stored.identity)
            now = {**recipe, **identity}
            _same(before, {k: v for k, v in now.items() if k not in CHANGEABLE}, self.path)
        if self.rank:
            return
        self._lock_folder()
        try:
            if self.replaces:
                _clear(self.path)
            if self.stored is None:
                self._write_run(Stored(task, recipe, identity))
        except BaseException:
            self.close()
            raise

    def adopt(self, recipe: Mapping[str, Any]) -> None:
        """From now on the run that lies here has this recipe, another one in what is CHANGEABLE."""
        if self.rank == 0 and self.stored is not None and dict(self.stored.recipe) != dict(recipe):
            self._write_run(replace(self.stored, recipe=recipe))

    def _write_run(self, run: Stored) -> None:
        parts = {name: dict(value) for name, value in vars(run).items()}
        self._write(RUN, dump({"format": FORMAT, **parts}, indent=2))

    def _lock_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / _LOCK, "wb")  # noqa: SIM115
        except OSError as error:
            raise InvalidInput(f"--out {self.path}: cannot be written ({error.strerror or error})") from error
        try:
            lock(file, self.path)
        except BaseException:
            file.close()
            raise
        self._lock = file

    def close(self) -> None:
        """Lets other processes in again."""
        if self._lock is not None:
            (self.path / _LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def checkpoint(self) -> Mapping[str, Any] | None:
        """The state to go on from: of the last checkpoint, or of the end; None where there is none.

        Later lines of the metrics are dropped. Where a kill left both, the one with more steps counts. Raises
        InvalidInput where a file is damaged. It is read without unpickling anything but tensors.
        """
        found = [_state(self.path / name) for name in (FINISHED, CHECKPOINT) if (self.path / name).exists()]
        if not found:
            self._cut(0)
            return None
        state = max(found, key=lambda s: s["step"])
        self._cut(state["step"])
        return self._own(state) if self.rank else state

    def _own(self, first: Mapping[str, Any]) -> Mapping[str, Any]:
        """This process's state; where it was killed before it saved, the first one's and what warm starts it has."""
        own = _state(self._checkpoint) if self._checkpoint.exists() else {}
        return own if own.get("step") == first["step"] else {**first, "warm": own.get("warm")}

    def due(self, minutes: float) -> bool:
        """Whether the last checkpoint is older than that."""
        return time.monotonic() - self._saved >= 60 * minutes

    def save(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint, at once or not at all; the run has not ended, or has been extended.

        Raises InvalidInput where it cannot be written.
        """
        self._replace(self._checkpoint, state)
        if self.rank == 0:
            (self.path / FINISHED).unlink(missing_ok=True)
        self._saved = time.monotonic()

    def finish(self, state: Mapping[str, Any]) -> None:
        """What an extension of a run that has ended needs, in place of its checkpoint: no vectors of images.

        Raises InvalidInput where it cannot be written.
        """
        if self.rank == 0:
            self._replace(self.path / FINISHED, {**state, "warm": None})
        self._checkpoint.unlink(missing_ok=True)

    @staticmethod
    def _replace(path: Path, state: Mapping[str, Any]) -> None:
        part = part_of(path)
        try:
            with part.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
            part.unlink(missing_ok=True)
            raise InvalidInput(f"{path}: cannot be written ({_reason(error)})") from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def append(self, epoch: Epoch) -> None:
        """Adds a line to the metrics."""
        if self.rank:
            return
        try:
            with (self.path / METRICS).open("ab") as file:
                file.write(dump(epoch.to_json()).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InvalidInput(f"{self.path / METRICS}: cannot be written ({_reason(error)})") from error

    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs written so far."""
        return read(self.path / METRICS) if (self.path / METRICS).exists() else ()

    def certified(self) -> bool:
        """Whether the run in `certify/` is of the model that lies here, and not of one that it had before."""
        try:
            stored = json.loads((self.certify / CERTIFY_RUN).read_bytes())
            return bool(stored["identity"]["model_sha256"] == file_sha256(self.model))
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            return False

    def write_card(self, text: str) -> None:
        """Replaces the model's card."""
        self._write(CARD, text)

    @property
    def _checkpoint(self) -> Path:
        return self.path / (CHECKPOINT if self.rank == 0 else f"checkpoint.{self.rank}.pt")

    def _cut(self, step: int) -> None:
        """Drops the metrics of epochs that ended after a step, and a line that was not finished.

        A run that goes on from step 0 looks at epoch 0 again.
        """
        path = self.path / METRICS
        if self.rank or not path.exists():
            return
        with reading(path, f"record of a run; {_AGAIN}"):
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if step and line.endswith(b"\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            self._write(METRICS, b"".join(kept).decode())

    def _write(self, name: str, text: str) -> None:
        try:
            write_atomically(self.path / name, text)
        except OSError as error:
            raise InvalidInput(f"{self.path / name}: cannot be written ({_reason(error)})") from error


_AGAIN = "start again with --overwrite"


def _state(path: Path) -> Mapping[str, Any]:
    """What `save` wrote, no byte of it changed: torch itself compares no checksums."""
    with reading(path, f"checkpoint; {_AGAIN}"):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise InvalidInput(f"{path}: {broken} is damaged; {_AGAIN}")
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(state, dict) and type(state["step"]) is int and state["step"] >= 0):
            raise ValueError("no step")
    return state


def open_folder(path: Path, *, resume: bool, overwrite: bool, rank: int = 0) -> TrainingFolder:
    """The folder for a new run, or for one that goes on; nothing is created before `begin`.

    resume: continues the run that lies here, or starts one. overwrite: replaces an earlier run, whose files `begin`
    removes. Raises InvalidInput where something lies here and neither is given, or where it is not a training run's.
    """
    debris = (_LOCK, part_of(path / RUN).name)
    if is_vacant(path, "--out", resume=resume, overwrite=overwrite, marker=RUN, ignored=debris):
        return TrainingFolder(path, rank=rank)
    stored = _stored(path)
    if overwrite:
        return TrainingFolder(path, rank=rank, replaces=True)
    return TrainingFolder(path, stored, rank)


def _clear(path: Path) -> None:
    """Deletes what a training run leaves in a folder, and nothing else, but for run.json, which a new one replaces: it
    is what makes the folder ours."""
    others = [other.name for other in path.iterdir() if _OTHERS.fullmatch(other.name)]
    for folder, names in ((path / CERTIFY, CERTIFY_FILES), (path, (*others, *FILES))):
        for name in names:
            part_of(folder / name).unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)


def _stored(path: Path) -> Stored:
    try:
        content = json.loads((path / RUN).read_bytes())
        known = content["format"] == FORMAT
        stored = Stored(*(dict(content[part]) for part in ("task", "recipe", "identity"))) if known else None
        if stored is not None:
            Recipe(**stored.recipe)
            stored = replace(stored, identity=with_stage_names(stored.identity))
    except (ValueError, KeyError, TypeError, OSError, RecursionError, InvalidInput) as error:
        raise InvalidInput(f"{path / RUN}: not written by llcert's training; choose another folder") from error
    if stored is None:
        raise InvalidInput(f"{path / RUN}: not a training run that this version of llcert can continue")
    return stored


def _same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    name = first_difference(before, now)
    if name is not None:
        raise InvalidInput(
            f"--resume: {name} is {now[name]} now, but was {before.get(name)} in {path}; "
            "ask for the same or start again with --overwrite"
        )


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ if isinstance(error, RuntimeError) else error
    return getattr(cause, "strerror", None) or str(error).splitlines()[0][:160]
