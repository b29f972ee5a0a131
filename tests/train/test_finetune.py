"""The loop: what it writes and when, runs that are stopped anywhere and go on, and time limits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_runs import Asked, Run, asked, same, timeless_state

import llcert_train.finetune
import llcert_train.folder
from llcert_train.finetune import Step
from llcert_train.folder import CHECKPOINT, TrainingFolder
from llcert_train.metrics import Epoch

PER_EPOCH = 5


def epochs_told(run: Run) -> list[Epoch]:
    return [e for e in run.told if isinstance(e, Epoch)]


def test_every_epoch_is_told_and_written_once(tmp_path: Path) -> None:
    run = asked(tmp_path, epochs=3).begun(tmp_path / "out").go()
    assert [e.epoch for e in epochs_told(run)] == [0, 1, 2, 3]
    assert [e.step for e in epochs_told(run)] == [0, 5, 10, 15]
    assert [e.done for e in run.told if isinstance(e, Step)] == list(range(1, 16))
    assert {e.total for e in run.told if isinstance(e, Step)} == {15}
    assert run.folder.epochs() == tuple(epochs_told(run))
    assert [line["epoch"] for line in run.lines] == [0, 1, 2, 3]
    assert [line["train"] is None for line in run.lines] == [True, False, False, False]
    assert (tmp_path / "out" / CHECKPOINT).exists()


@pytest.mark.parametrize(("every", "looks"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (3, [0, 3, 5]), (9, [0, 5])])
def test_looks_come_every_so_many_epochs_and_at_the_end(every: int, looks: list[int], tmp_path: Path) -> None:
    run = asked(tmp_path, epochs=5, evaluate=every, batch=1000).begun(tmp_path / "out").go()
    assert [line["epoch"] for line in run.lines if line["held_out"] is not None] == looks


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, Run]:
    """A question, and a run of it that nobody stopped."""
    folder = tmp_path_factory.mktemp("alone")
    question = asked(folder, evaluate=2)
    return question, question.begun(folder / "out").go()


@pytest.mark.parametrize("stop", range(2 * PER_EPOCH + 1))
def test_a_run_goes_on_from_every_step(stop: int, left_alone: tuple[Asked, Run], tmp_path: Path) -> None:
    """From the one before the first too, where only epoch 0 is written."""
    question, whole = left_alone
    first = question.begun(tmp_path / "out")
    if stop:
        first.go(stop)
    else:
        stop_at_the_first_word(first)
    second = question.begun(tmp_path / "out", resume=True)
    assert second.job.trainer.step == stop
    second.go()
    assert [line["epoch"] for line in second.lines] == [0, 1, 2]
    assert second.lines == whole.lines
    assert same(timeless_state(second.job), timeless_state(whole.job))


def stop_at_the_first_word(run: Run) -> None:
    events = llcert_train.finetune.finetune(run.job.trainer, run.job.watch, run.folder)
    assert isinstance(next(events), Epoch)
    events.close()
    run.folder.save(run.job.trainer.state())
    run.folder.close()


def test_a_run_in_many_pieces(left_alone: tuple[Asked, Run], tmp_path: Path) -> None:
    question, whole = left_alone
    for step in range(1, 2 * PER_EPOCH + 1, 2):
        run = question.begun(tmp_path / "out", resume=True).go(step)
    run = question.begun(tmp_path / "out", resume=True).go()
    assert run.lines == whole.lines
    assert same(timeless_state(run.job), timeless_state(whole.job))


@pytest.mark.parametrize(("saved", "killed"), [(2, 9), (0, 7), (5, 10), (4, 5)])
def test_a_run_that_was_killed_repeats_what_no_checkpoint_holds(
    saved: int, killed: int, left_alone: tuple[Asked, Run], tmp_path: Path
) -> None:
    question, whole = left_alone
    run = question.begun(tmp_path / "out")
    for event in llcert_train.finetune.finetune(run.job.trainer, run.job.watch, run.folder):
        if isinstance(event, Step) and event.done == saved:
            run.folder.save(run.job.trainer.state())
        if isinstance(event, Step) and event.done == killed:
            break
    run.folder.close()
    with (tmp_path / "out" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 2, "st')  # a line that was not finished
    second = question.begun(tmp_path / "out", resume=True)
    assert second.job.trainer.step == saved
    second.go()
    assert second.lines == whole.lines
    assert same(timeless_state(second.job), timeless_state(whole.job))


def test_a_finished_run_goes_nowhere(left_alone: tuple[Asked, Run], tmp_path: Path) -> None:
    question, whole = left_alone
    run = question.begun(tmp_path / "out").go()
    again = question.begun(tmp_path / "out", resume=True).go()
    assert again.told == []
    assert again.lines == run.lines == whole.lines
    assert same(timeless_state(again.job), timeless_state(whole.job))


# Checkpoints by the clock


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


def saves(run: Run, clock: Clock, seconds: float) -> list[int]:
    """The steps after which the run saved by itself, on a clock where a step takes so long."""
    found = []
    save, step = run.folder.save, run.job.trainer.train_step

    def noted(state: Any) -> None:
        found.append(state["step"])
        save(state)

    def slow() -> None:
        step()
        clock.now += seconds

    run.folder.save = noted  # type: ignore[method-assign]
    run.job.trainer.train_step = slow  # type: ignore[method-assign]
    run.go()
    return found


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(0.0, [*range(1, 11), 10]), (1.0, [2, 4, 6, 8, 10, 10]), (2.1, [5, 10, 10]), (1000.0, [10])],
)
def test_checkpoints_come_every_so_many_minutes(
    minutes: float, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes half a minute; the end is always saved."""
    clock = Clock()
    run = asked(tmp_path, checkpoint=minutes, evaluate=9).begun(tmp_path / "out")
    monkeypatch.setattr(llcert_train.folder, "time", SimpleNamespace(monotonic=clock))
    assert saves(run, clock, 30.5) == expected


def test_each_checkpoint_holds_the_epochs_before_it(tmp_path: Path) -> None:
    """A step's checkpoint comes after the line of the epoch that it ends."""
    run, seen = asked(tmp_path, checkpoint=0.0).begun(tmp_path / "out"), []
    save = run.folder.save

    def noted(state: Any) -> None:
        save(state)
        lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
        seen.append((state["step"] // PER_EPOCH, json.loads(lines[-1])["epoch"]))

    run.folder.save = noted  # type: ignore[method-assign]
    run.go()
    assert all(ended == written for ended, written in seen)


def test_a_folder_that_fails_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint cannot hold is not trained on for hours."""
    run = asked(tmp_path, checkpoint=0.0).begun(tmp_path / "out")

    def full(self: TrainingFolder, state: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrainingFolder, "save", full)
    with pytest.raises(OSError, match="No space"):
        run.go()
    run.folder.close()
    assert run.job.trainer.step == 1
