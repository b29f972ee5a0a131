"""Runs a training and prints: progress, a line an epoch, interruption, and the certification at the end."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

import llcert
from llcert.cli.certification import Outputs, certify
from llcert.cli.terminal import DownloadProgress, stderr, work_progress
from llcert.errors import InvalidInput
from llcert.machine.environment import own_device, own_rank
from llcert.machine.threads import threads_for
from llcert.reporting.diagnosis import percent
from llcert.runs.resolve import device_of
from llcert.runs.run_directory import SUMMARY
from llcert.runs.start import Folders
from llcert_train.card import card
from llcert_train.folder import TrainingFolder, open_folder
from llcert_train.job import Job, prepare
from llcert_train.loop import Planned, Step, train
from llcert_train.metrics import Epoch, HeldOut
from llcert_train.precision import settle
from llcert_train.settings import Recipe, read_recipe
from llcert_train.task import Task, resolve
from llcert_train.team import assembled
from llcert_train.zoo import ARCHITECTURES

_INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """A training as the command line asks for it.

    recipe: a name or a file; None for the command's default, or for the recipe of a run that is resumed. fields: of the
    recipe, by options; None for those that were not given.
    """

    task: Task
    recipe: str | None
    fields: Mapping[str, Any]
    out: Path
    resume: bool = False
    overwrite: bool = False


def run(request: Request) -> int:
    """Trains, exports, certifies; the exit code. Raises LlcertError for everything that cannot be done."""
    rank = own_rank()
    folder = open_folder(request.out, resume=request.resume, overwrite=request.overwrite, rank=rank)
    if folder.stored is not None:
        request = dataclasses.replace(request, task=request.task.filled(folder.stored.task))
    recipe, console = _recipe(request, folder), Console(quiet=True) if rank else stderr()
    device = own_device(device_of(request.task.device))
    try:
        with assembled(device) as team:
            resolved = resolve(request.task, recipe)
            job = prepare(resolved, resolved.datasets(DownloadProgress(console)), team=team)
            folder.begin(request.task.to_json(), recipe.to_json(), job.identity)
            finished = _trained(job, folder, console)
        if not finished:
            return _interrupted(request, folder, job, console)
        return 0 if rank else _delivered(request, folder, job, console)
    finally:
        folder.close()


def _recipe(request: Request, folder: TrainingFolder) -> Recipe:
    """The recipe of the run that is resumed, or the one asked for, with the fields that options set."""
    default = "" if request.task.model is None else "finetune"
    if folder.stored is not None:
        base = Recipe(**folder.stored.recipe)
    elif request.recipe or default:
        base = read_recipe(request.recipe or default)
    else:
        base = Recipe()
    recipe = base.changed(request.fields)
    if request.task.model is None and not recipe.arch:
        raise InvalidInput(f"name an architecture ({', '.join(ARCHITECTURES)}) or a --recipe that has one")
    return recipe


def _trained(job: Job, folder: TrainingFolder, console: Console) -> bool:
    """Trains to the end; False if the user interrupted, once the step was finished and saved."""
    trainer = job.trainer
    torch.set_num_threads(threads_for(trainer.program.multiplications, torch.get_num_threads()))
    state = folder.checkpoint() if folder.stored is not None else None
    if state is not None:
        trainer.restore(state)
    folder.adopt(job.recipe.to_json())
    for note in (*job.trainer.weights.network.notes, *job.notes):
        console.print(f"note   {note}", soft_wrap=True, markup=False)
    if state is not None:
        console.print(f"going on after step {trainer.step:,}, {trainer.seconds / 60:,.1f} minutes")
    elif settled := settle(trainer):
        console.print(f"note   {settled}", soft_wrap=True, markup=False)
    unit, total = ("seconds", round(60 * job.recipe.minutes)) if job.recipe.minutes else ("steps", trainer.plan.steps)
    table = _Table(console)
    with work_progress(console, unit, total=total) as progress, _watched() as stopped:
        for event in train(trainer, job.watch, folder):
            if isinstance(event, Step):
                progress.left(event.total - event.done if event.left is None else event.left)
            else:
                table.show(event)
            if trainer.team.any(stopped.is_set, trainer.program.device):
                folder.save(trainer.state())
                return False
    return True


_HEADER = "epoch  radius    loss   clean     PGD  certified  global/local bound  images/s"


class _Table:
    """Prints the plan and a line an epoch, with a header above the first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._headed = False

    def show(self, event: Planned | Epoch) -> None:
        if isinstance(event, Planned):
            for words in (event.sentence, event.warning):
                if words:
                    self._console.print(f"plan   {words}", soft_wrap=True, markup=False)
        elif event.held_out is not None or event.train is not None:
            if not self._headed:
                self._console.print(_HEADER, style="bold", soft_wrap=True)
            self._headed = True
            self._console.print(_line(event), highlight=False, soft_wrap=True)


def _line(event: Epoch) -> str:
    look, train = event.held_out, event.train
    loss = "-" if train is None or train.loss is None else f"{train.loss:.3f}"
    speed = "-" if train is None or train.images_per_second is None else f"{train.images_per_second:,.0f}"
    return f"{event.epoch:5d}  {event.eps or 0:6.4f} {loss:>7} {_seen(look)} {speed:>9}"


def _seen(look: HeldOut | None) -> str:
    if look is None:
        return f"{'-':>7} {'-':>7} {'-':>10} {'-':>19}"
    clean, pgd, certified = (percent(s) for s in (look.clean_accuracy, look.attacked_accuracy, look.certified_accuracy))
    bounds = "/".join("-" if b is None else f"{b:.4g}" for b in (look.global_lipschitz, look.local_lipschitz))
    return f"{clean:>7} {pgd:>7} {certified:>10} {bounds:>19}"


class _Stop:
    """A signal handler that notes a request to stop."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_set = True


@contextmanager
def _watched() -> Iterator[_Stop]:
    """Inside, the first interrupt is noted, so that the step can be finished; a second one interrupts at once."""
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(request: Request, folder: TrainingFolder) -> str:
    """The command that goes on with the run."""
    out = f"--out {shlex.quote(str(folder.path))} --resume"
    if request.task.model is None:
        return f"llcert train {out}"
    return f"llcert finetune {shlex.quote(str(request.task.model))} {out}"


def _interrupted(request: Request, folder: TrainingFolder, job: Job, console: Console) -> int:
    step, steps = job.trainer.step, job.trainer.plan.steps
    console.print(
        f"interrupted after step {step:,} of {steps:,}, saved; go on with: {_again(request, folder)}",
        soft_wrap=True,
        markup=False,
    )
    return _INTERRUPTED


def _delivered(request: Request, folder: TrainingFolder, job: Job, console: Console) -> int:
    """Writes the model, certifies the file by the public path, writes its card."""
    llcert.save(job.network(), folder.model)
    options = dataclasses.replace(job.options, data=request.task.test_data or job.options.data)
    summary = folder.certify / SUMMARY
    certified = folder.certified()
    folders = Folders(folder.certify, resume=certified, overwrite=not certified)
    outputs = Outputs(again=_again(request, folder))
    code = certify(str(folder.model), options, folders, outputs, dataset=job.test)
    if code:
        return code
    origin = f"`{request.task.model.name}`" if request.task.model else f"a new {job.recipe.arch}"
    folder.write_card(
        card(
            name=folder.path.name,
            recipe=job.recipe,
            summary=json.loads(summary.read_text()),
            epochs=folder.epochs(),
            origin=origin,
            notes=job.notes,
        )
    )
    console.print(
        f"wrote {folder.model} and its card; llcert plot {folder.path} draws the run", soft_wrap=True, markup=False
    )
    return 0
