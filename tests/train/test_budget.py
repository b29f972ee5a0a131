"""Runs by the clock: the plan, and that it holds whatever the machine does; every clock here is told the time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from toy_runs import Run, asked, rates_of, same, timeless_state

from llcert.errors import InvalidInput
from llcert_train.budget import Budget
from llcert_train.job import Job
from llcert_train.loop import Planned, Step
from llcert_train.metrics import Epoch
from llcert_train.trainer import Plan

PER_EPOCH = 5


@dataclass
class Machine:
    """Where a step takes `plain` seconds at radius 0, `bound` above, `last` in the last phase, and a look `look`; all
    slower by a factor that depends on the time."""

    plain: float = 1.0
    bound: float = 3.0
    last: float = 6.0
    look: float = 2.0
    slower: Callable[[float], float] = lambda now: 1.0
    now: float = 1000.0

    def works(self, seconds: float) -> None:
        self.now += seconds * self.slower(self.now - 1000)

    def under(self, job: Job) -> None:
        """Makes a job run on this machine."""
        trainer, watch = job.trainer, job.watch

        def wrapped(model: Any) -> Any:
            def measured(images: Any, labels: Any, radius: float, *rest: Any) -> Any:
                self.works(self.last if trainer.phase else self.bound if radius else self.plain)
                return model(images, labels, radius, *rest)

            return measured

        def looked(program: object, starts: Any) -> Any:
            self.works(self.look)
            return watch(starts)

        trainer.clock = lambda: self.now
        trainer.model = wrapped(trainer.model)
        object.__setattr__(trainer.team, "wrapped", wrapped)
        object.__setattr__(job, "watch", looked.__get__(trainer.program))


def on(machine: Machine, out: Path, *, resume: bool = False, **recipe: Any) -> Run:
    """A run on that machine, not begun."""
    out.parent.mkdir(exist_ok=True)
    how = {"epochs": 0, "loss": "gloro", "attack_steps": 1, "held_out": 3, "evaluate": 4, "warm_up": 0.25, **recipe}
    run = asked(out.parent, **how).begun(out, resume=resume)
    machine.under(run.job)
    return run


MACHINES: dict[str, Machine] = {
    "steady": Machine(),
    "slow looks": Machine(look=15.0),
    "half as fast from the middle on": Machine(slower=lambda t: 1.0 if t < 600 else 2.0),
    "five times slower near the end": Machine(slower=lambda t: 1.0 if t < 1080 else 5.0),
    "faster from the middle on": Machine(slower=lambda t: 1.0 if t < 600 else 0.4),
    "shared now and then": Machine(slower=lambda t: 3.0 if int(t / 40) % 3 == 0 else 1.0),
    "all steps alike": Machine(bound=1.0),
    "bounds that cost ten steps": Machine(plain=0.5, bound=5.0),
}


PHASES: dict[str, dict[str, Any]] = {
    "one phase": {},
    "local at the end": {"last_loss": "local-lip-b", "last_share": 0.2},
}


@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("kind", MACHINES)
def test_a_run_takes_its_minutes(kind: str, phases: str, tmp_path: Path) -> None:
    """Within 5 %, measuring and looks included, and all of the schedule: slow, long at the end, and never backwards."""
    machine = replace(MACHINES[kind])
    run = on(machine, tmp_path / "out", minutes=20.0, **PHASES[phases])
    trainer = run.job.trainer
    rates = rates_of(trainer)
    run.go()
    assert trainer.progress == 1
    assert machine.now - 1000 == pytest.approx(1200, rel=0.05)
    assert trainer.seconds == pytest.approx(machine.now - 1000)
    assert rates == sorted(rates, reverse=True)
    recipe = trainer.recipe
    assert rates[-1] < recipe.final_rate * (recipe.rate / recipe.final_rate) ** 0.1, "the rate fell to its end"
    epochs = [e for e in run.told if isinstance(e, Epoch)]
    assert [e.epoch for e in epochs] == list(range(math.ceil(trainer.step / PER_EPOCH) + 1))
    assert epochs[-1].step == trainer.step
    assert epochs[-1].held_out is not None
    assert epochs[-1].eps == trainer.schedule.radius(1.0)
    assert run.folder.epochs() == tuple(epochs)


def test_a_last_epoch_that_is_cut_short_counts_what_it_has(tmp_path: Path) -> None:
    run = on(Machine(plain=7.0, bound=7.0, look=1.0), tmp_path / "out", minutes=2.2).go()
    trainer, (*_, last) = run.job.trainer, run.folder.epochs()
    assert not trainer.between_epochs
    assert last.train is not None
    assert last.train.images_per_second == pytest.approx(trainer.batch / 7)
    assert last.train.loss is not None
    assert 0 < last.train.loss < 3, "a mean of its steps"


def test_the_plan_is_told_before_the_first_step(tmp_path: Path) -> None:
    """Two steps of three count of each stretch; the first quarter of the run is at radius 0."""
    told = on(Machine(plain=1.0, bound=3.0, look=4.0), tmp_path / "out", minutes=30.0).go().told
    (planned,) = (e for e in told if isinstance(e, Planned))
    assert told[0] is planned
    epochs, seconds = re.fullmatch(r"(\d+) epochs of (\d+) s fit into 30 minutes", planned.sentence).groups()  # type: ignore[union-attr]
    assert int(seconds) == round(5 * (0.25 * 1 + 0.75 * 3) + 1)
    assert int(epochs) == round((1800 - 12 - 4) / 13.5)
    assert planned.warning is None


def test_steps_say_what_time_is_left(tmp_path: Path) -> None:
    machine = Machine()
    run, seen = on(machine, tmp_path / "out", minutes=10.0), []
    trainer, step = run.job.trainer, run.job.trainer.train_step

    def noted() -> None:
        step()
        seen.append(machine.now)

    trainer.train_step = noted  # type: ignore[method-assign]
    run.go()
    steps = [e for e in run.told if isinstance(e, Step)]
    assert steps[-1].left == 0
    assert all(a.left is not None for a in steps)
    for now, said in zip(seen, steps, strict=True):
        assert now - 1000 + float(said.left or 0) == pytest.approx(600, abs=10)
    assert {e.left for e in asked(tmp_path, epochs=1).begun(tmp_path / "b").go().told if isinstance(e, Step)} == {None}


def test_epochs_given_with_minutes_are_the_most(tmp_path: Path) -> None:
    """And the run is the one that had no limit, step for step."""
    told = on(Machine(), tmp_path / "a" / "out", minutes=60.0, epochs=6)
    other = on(Machine(), tmp_path / "b" / "out", minutes=0.0, epochs=6)
    assert told.go().job.trainer.step == 6 * PER_EPOCH
    (planned,) = (e for e in told.told if isinstance(e, Planned))
    assert re.fullmatch(r"6\.0 epochs of 13 s take 1\.3 of 60 minutes", planned.sentence)
    assert planned.warning is None
    states = [timeless_state(run.job) for run in (told, other.go())]
    assert [state.pop("minutes") for state in states] == [60, 0]
    assert same(*states)
    assert told.lines == other.lines


@pytest.mark.parametrize("loss", ["gloro", "standard"])
def test_a_budget_too_small_for_a_ramp(loss: str, tmp_path: Path) -> None:
    """Which a run without a radius has not."""
    run = on(Machine(look=1.0), tmp_path / "out", minutes=0.6, loss=loss).go()
    (planned,) = (e for e in run.told if isinstance(e, Planned))
    assert run.job.trainer.progress == 1
    if loss == "standard":
        assert planned.warning is None
        return
    line = planned.warning
    assert line is not None
    found = re.fullmatch(r"1\.\d epochs are too few for a radius that grows .*: give --minutes (\d) or more, .*", line)
    assert found is not None
    enough = on(Machine(look=1.0), tmp_path / "enough", minutes=float(found[1])).go()
    (planned,) = (e for e in enough.told if isinstance(e, Planned))
    assert planned.warning is None


def test_a_limit_below_a_step_is_one_step(tmp_path: Path) -> None:
    run = on(Machine(), tmp_path / "out", minutes=1e-3).go()
    assert (run.job.trainer.step, run.job.trainer.progress) == (1, 1)


@pytest.mark.parametrize("stop", [1, 40, 117])
def test_a_run_that_goes_on_keeps_to_its_minutes(stop: int, tmp_path: Path) -> None:
    """On a machine of another speed too: its steps are measured anew, its progress goes on from where it was."""
    first = on(Machine(), tmp_path / "out", minutes=10.0).go(stop)
    spent, progress = first.job.trainer.seconds, first.job.trainer.progress
    machine = Machine(plain=2.0, bound=6.0, look=4.0)
    second = on(machine, tmp_path / "out", resume=True, minutes=10.0)
    assert (second.job.trainer.progress, second.job.trainer.seconds) == (progress, spent)
    second.go()
    (planned,) = (e for e in second.told if isinstance(e, Planned))
    assert " more epochs of " in planned.sentence
    assert second.job.trainer.progress == 1
    assert spent + machine.now - 1000 == pytest.approx(600, rel=0.05)
    epochs = [e.epoch for e in second.folder.epochs()]
    assert epochs == list(range(len(epochs)))


@pytest.mark.parametrize("before", [{"minutes": 10.0}, {"epochs": 12, "minutes": 0.0}])
def test_a_finished_run_gets_more_minutes(before: dict[str, Any], tmp_path: Path) -> None:
    """All that it has in the end, those that it had before included; progress goes on at their share."""
    machine = Machine(look=4.0)
    first = on(machine, tmp_path / "out", **before).go()
    spent, steps = first.job.trainer.seconds, first.job.trainer.step
    assert spent < 660
    second = on(machine, tmp_path / "out", resume=True, minutes=20.0)
    trainer = second.job.trainer
    assert (trainer.step, trainer.progress) == (steps, spent / 1200)
    assert not trainer.done
    second.go()
    (planned,) = (e for e in second.told if isinstance(e, Planned))
    assert " more epochs of " in planned.sentence
    assert trainer.progress == 1
    assert trainer.seconds == pytest.approx(1200, rel=0.05)
    assert [e.epoch for e in second.folder.epochs()] == list(range(math.ceil(trainer.step / PER_EPOCH) + 1))
    third = on(machine, tmp_path / "out", resume=True, minutes=20.0).go()
    assert third.told == []
    with pytest.raises(InvalidInput, match=r"--minutes 15: \d\d\.\d are over; ask for more"):
        on(machine, tmp_path / "out", resume=True, minutes=15.0)


def test_time_for_checkpoints_counts(tmp_path: Path) -> None:
    """But not for what its epoch did in a second."""
    machine = Machine(plain=2.0, bound=2.0)
    run = on(machine, tmp_path / "out", minutes=10.0, checkpoint=0.0)
    save = run.folder.save

    def slow(state: Any) -> None:
        machine.works(1.0)
        save(state)

    run.folder.save = slow  # type: ignore[method-assign]
    run.go()
    assert machine.now - 1000 == pytest.approx(600, rel=0.05)
    speeds = [e.train.images_per_second for e in run.folder.epochs() if e.train is not None]
    assert speeds == pytest.approx([8.0] * len(speeds))


def test_a_clock_that_stands_still(tmp_path: Path) -> None:
    """Nothing costs anything: as many steps as a recipe of epochs may have."""
    run = on(Machine(plain=0.0, bound=0.0, look=0.0), tmp_path / "out", minutes=1.0)
    budget = Budget.measured(run.job.trainer)
    assert budget.plan(run.job.trainer).steps == 1 << 40
    run.folder.close()


def test_progress_goes_on_where_a_plan_changes() -> None:
    plan = Plan(10, 5)
    assert [plan.at(n) for n in range(11)] == [n / 10 for n in range(11)]
    shorter = plan.changed(4, 6)
    assert [shorter.at(n) for n in (4, 5, 6, 7)] == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert shorter.changed(5, 25).at(5) == shorter.at(5)
    assert plan.changed(4, 10) is plan
