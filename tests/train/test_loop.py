"""The loop: what it writes and when, runs that are stopped anywhere and go on, and time limits."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_runs import Asked, Run, asked, rates_of, same, timeless_state

import llcert_train.folder
import llcert_train.loop
from llcert.errors import InvalidInput
from llcert_train.folder import CHECKPOINT, FINISHED, TrainingFolder
from llcert_train.loop import Step
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
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"run.json", "metrics.jsonl", FINISHED}


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
    events = llcert_train.loop.train(run.job.trainer, run.job.watch, run.folder)
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
    for event in llcert_train.loop.train(run.job.trainer, run.job.watch, run.folder):
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
    assert same(without_vectors(again), without_vectors(whole))


def without_vectors(run: Run) -> dict[str, Any]:
    return {k: v for k, v in timeless_state(run.job).items() if k != "warm"}


# Runs that are extended


def longer(question: Asked, **fields: Any) -> Asked:
    return replace(question, recipe=question.recipe.changed(fields))


def test_a_finished_run_is_extended(left_alone: tuple[Asked, Run], tmp_path: Path) -> None:
    """From where it ended: two epochs are half of four, and radius and rate those of the middle of four."""
    question, short = left_alone
    question.begun(tmp_path / "out").go()
    run = longer(question, epochs=4).begun(tmp_path / "out", resume=True)
    trainer = run.job.trainer
    rates = rates_of(trainer)
    assert same(timeless_state(run.job)["weights"], timeless_state(short.job)["weights"])
    assert same(timeless_state(run.job)["optimiser"]["state"], timeless_state(short.job)["optimiser"]["state"])
    assert (trainer.step, trainer.progress) == (10, 0.5)
    run.go()
    assert rates == pytest.approx([trainer.schedule.rate(n / 20) for n in range(10, 20)])
    assert run.lines[:3] == short.lines
    assert [line["epoch"] for line in run.lines] == [0, 1, 2, 3, 4]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"run.json", "metrics.jsonl", FINISHED}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["recipe"]["epochs"] == 4


@pytest.mark.parametrize("stop", [11, 15, 19])
def test_an_extension_goes_on_too(stop: int, left_alone: tuple[Asked, Run], tmp_path: Path) -> None:
    """Without saying again how long it is."""
    question, runs = longer(left_alone[0], keep_vectors=True), []
    for name in ("straight", "stopped"):
        question.begun(tmp_path / name).go()
        runs.append(longer(question, epochs=4).begun(tmp_path / name, resume=True))
    straight, first = runs[0].go(), runs[1].go(stop)
    assert {p.name for p in (tmp_path / "stopped").iterdir()} == {"run.json", "metrics.jsonl", CHECKPOINT}
    second = longer(question, epochs=4).begun(tmp_path / "stopped", resume=True)
    assert second.job.trainer.step == first.job.trainer.step == stop
    assert same(timeless_state(second.go().job), timeless_state(straight.job))
    assert second.lines == straight.lines


@pytest.mark.parametrize("stop", [None, 7])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"epochs": 1}, "--epochs 1: {done} are done; ask for more, or start again with --overwrite"),
        ({"minutes": 1e-9}, "--minutes 1e-09: 0.0 are over; ask for more, or start again with --overwrite"),
    ],
)
def test_less_than_is_done_is_refused(
    stop: int | None, fields: dict[str, Any], words: str, left_alone: tuple[Asked, Run], tmp_path: Path
) -> None:
    question, _ = left_alone
    question.begun(tmp_path / "out").go(stop)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(InvalidInput) as error:
        longer(question, **fields).begun(tmp_path / "out", resume=True)
    assert str(error.value) == words.format(done="1.4" if stop else "2")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_a_run_that_has_not_ended_may_become_longer_or_shorter(tmp_path: Path) -> None:
    """Its progress stays as it is, and the steps that are left share what is left of it."""
    question = asked(tmp_path, epochs=6)
    for epochs, steps in ((9, 45), (4, 20)):
        out = tmp_path / f"{epochs}"
        question.begun(out).go(15)
        run = longer(question, epochs=epochs).begun(out, resume=True)
        plan = run.job.trainer.plan
        assert (plan.at(15), plan.at(steps), plan.steps) == (0.5, 1.0, steps)
        run.go(17)
        again = longer(question, epochs=epochs).begun(out, resume=True)
        assert again.job.trainer.plan == plan
        again.go()
        assert (again.job.trainer.step, again.job.trainer.progress) == (steps, 1)
    question.begun(tmp_path / "none left").go(15)
    with pytest.raises(InvalidInput, match="--epochs 3: 3 are done"):
        longer(question, epochs=3).begun(tmp_path / "none left", resume=True)


def test_an_extension_has_phases_of_its_own(tmp_path: Path) -> None:
    question = asked(tmp_path, epochs=2, loss="gloro", last_loss="local-lip-b", last_share=0.2)
    assert question.begun(tmp_path / "out").go().job.trainer.phase == 1
    run = longer(question, epochs=4).begun(tmp_path / "out", resume=True)
    trainer, phases = run.job.trainer, []
    step = trainer.train_step

    def noted() -> None:
        step()
        phases.append((trainer.phase, trainer.warm is not None))

    trainer.train_step = noted  # type: ignore[method-assign]
    run.go()
    assert phases == [(0, False)] * 6 + [(1, True)] * 4


def test_vectors_of_images_are_found_again(tmp_path: Path) -> None:
    """Where no checkpoint kept them: every image starts as one that was never seen, all else is as it was."""
    question = asked(tmp_path, epochs=4, warm_up=0.0, keep_vectors=False)
    kept, left_out = longer(question, keep_vectors=True).begun(tmp_path / "kept"), question.begun(tmp_path / "out")
    sizes = []
    for run in (kept, left_out):
        run.go(8)
        sizes.append((run.folder.path / CHECKPOINT).stat().st_size)
    vectors = kept.job.trainer.warm
    assert vectors is not None
    assert sizes[0] - sizes[1] > sum(v.numel() * v.element_size() for v in vectors.vectors)
    again = question.begun(tmp_path / "out", resume=True)
    assert again.job.trainer.warm is not None
    assert not again.job.trainer.warm.seen.any()
    assert same(without_vectors(again), {**without_vectors(kept)})
    again.go()
    assert again.job.trainer.warm.seen.any()
    known = [line["train"]["loss"] for line in kept_to_the_end(kept, tmp_path)]
    found = [line["train"]["loss"] for line in again.lines[1:]]
    assert found == pytest.approx(known, rel=0.05)


def kept_to_the_end(run: Run, tmp_path: Path) -> list[dict[str, Any]]:
    return longer(asked(tmp_path, epochs=4, warm_up=0.0)).begun(run.folder.path, resume=True).go().lines[1:]


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
    [(0.0, [*range(1, 10)]), (1.0, [2, 4, 6, 8]), (2.1, [5]), (1000.0, [])],
)
def test_checkpoints_come_every_so_many_minutes(
    minutes: float, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes half a minute; the end has a file of its own."""
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
