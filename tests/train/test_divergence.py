"""Runs that diverge: what stops them, and how they go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import asked, noted_calls, same, timeless_copy, timeless_state

from llcert_train.loop import train
from llcert_train.metrics import Epoch, HeldOut
from llcert_train.settings import Loss
from llcert_train.trainer import Diverged


def poisoned(trainer: Any, value: float) -> None:
    with torch.no_grad():
        next(iter(trainer.weights.leaves.values())).flatten()[0] = value


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_stop_the_run(loss: Loss, value: float, tmp_path: Path) -> None:
    trainer = asked(tmp_path, loss=loss, warm_up=0.0).job().trainer
    trainer.train_step()
    trainer.train_step()
    poisoned(trainer, value)
    before = timeless_copy(trainer)
    with pytest.raises(Diverged) as caught:
        trainer.train_step()
    says_what_to_change(caught.value, step=3)
    assert same(timeless_copy(trainer), before), "a step that is refused moves nothing"


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """Though the loss is: nothing of it reaches a weight."""
    trainer = asked(tmp_path).job().trainer
    trainer.train_step()
    objective, leaf = trainer.model, next(iter(trainer.weights.leaves.values()))

    def steep(*arguments: Any) -> Any:
        found = objective(*arguments)
        return replace(found, loss=found.loss + (0 * leaf.sum()).abs().sqrt())

    trainer.model = steep  # type: ignore[assignment]
    before = timeless_copy(trainer)
    with pytest.raises(Diverged) as caught:
        trainer.train_step()
    says_what_to_change(caught.value, step=2)
    assert same(timeless_copy(trainer), before)


def says_what_to_change(error: Exception, step: int) -> None:
    (line,) = str(error).splitlines()
    assert f"step {step} " in line
    assert "--rate" in line
    assert "--clip-gradient" in line


def test_a_run_that_diverges_leaves_its_last_checkpoint(tmp_path: Path) -> None:
    question = asked(tmp_path, rate=1e30, final_rate=1e30)
    run = question.begun(tmp_path / "out")
    run.folder.save(run.job.trainer.state())
    before = (tmp_path / "out" / "checkpoint.pt").read_bytes()
    with pytest.raises(Diverged) as caught:
        run.go()
    run.folder.close()
    says_what_to_change(caught.value, step=run.job.trainer.step + 1)
    assert 1 <= run.job.trainer.step < run.job.trainer.plan.steps
    assert (tmp_path / "out" / "checkpoint.pt").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["checkpoint.pt", "metrics.jsonl", "run.json"]
    again = question.begun(tmp_path / "out", resume=True)
    assert again.job.trainer.step == 0
    assert all(bool(p.isfinite().all()) for p in again.job.trainer.weights.leaves.values())
    again.folder.close()


def test_a_last_step_that_diverges_is_not_saved(tmp_path: Path) -> None:
    """One step: no other would notice."""
    run = asked(tmp_path, rate=1e30, final_rate=1e30, epochs=1, batch=1000).begun(tmp_path / "out")
    with pytest.raises(Diverged, match=r"global Lipschitz bound .* --resume"):
        run.go()
    run.folder.close()
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


@pytest.mark.parametrize("bound", [None, 1e16, 1e300])
def test_a_bound_out_of_all_proportion_stops_the_run(bound: float | None, tmp_path: Path) -> None:
    """Before the epoch is written and saved; one that is only large is no reason."""
    run = asked(tmp_path, checkpoint=0.0).begun(tmp_path / "out")
    bounds = {0: 1e9, 1: bound}

    def watch(starts: object) -> HeldOut:
        return HeldOut(global_lipschitz=bounds[run.job.trainer.epoch])

    told: list[object] = []
    with pytest.raises(Diverged) as caught:
        told.extend(train(run.job.trainer, watch, run.folder))  # type: ignore[arg-type]
    run.folder.close()
    (line,) = str(caught.value).splitlines()
    assert "epoch 1" in line
    assert "--rate" in line
    assert [e.epoch for e in told if isinstance(e, Epoch)] == [0]
    assert [line["epoch"] for line in run.lines] == [0]
    assert run.folder.checkpoint()["step"] == 4  # type: ignore[index]


@pytest.mark.parametrize(
    "changed", [{"rate": 0.001, "final_rate": 1e-5}, {"clip_gradient": 0.01}, {"checkpoint": 3.0, "evaluate": 5}]
)
def test_a_run_goes_on_more_carefully(changed: dict[str, Any], tmp_path: Path) -> None:
    """With what may change between two runs of one training: the steps that follow obey it."""
    question = asked(tmp_path, rate=0.01)
    question.begun(tmp_path / "out").go(5)
    careful = replace(question, recipe=question.recipe.changed(changed))
    run = careful.begun(tmp_path / "out", resume=True)
    trainer = run.job.trainer
    assert trainer.step == 5
    before = {k: v.detach().clone() for k, v in trainer.moved.items()}
    steps = noted_calls(run)
    schedule = trainer.schedule
    assert [rate for *_, rate in steps] == [schedule.rate(n / 10) for n in range(5, 10)]
    assert schedule.recipe.rate == changed.get("rate", 0.01)
    again = question.begun(tmp_path / "other")
    again.go()
    same_end = same(timeless_state(again.job)["weights"], timeless_state(run.job)["weights"])
    assert same_end is ("checkpoint" in changed), "what only watches and saves changes no weight"
    assert not same(before, {k: v.detach() for k, v in trainer.moved.items()})
    third = careful.begun(tmp_path / "out", resume=True)
    third.folder.close()
    assert third.folder.stored is not None
    assert third.folder.stored.recipe == careful.recipe.to_json()
