"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llcert_train.budget import Budget
from llcert_train.folder import TrainingFolder
from llcert_train.metrics import Epoch
from llcert_train.trainer import Trainer
from llcert_train.watch import Watch


@dataclass(frozen=True)
class Planned:
    """How much training fits into the recipe's minutes, as a sentence. warning: None, or why that is too little."""

    sentence: str
    warning: str | None


@dataclass(frozen=True)
class Step:
    """`done` of `total` steps are done. left: seconds to the end of a run by minutes, else None."""

    done: int
    total: int
    left: float | None = None


def train(trainer: Trainer, watch: Watch, folder: TrainingFolder) -> Iterator[Planned | Step | Epoch]:
    """Trains for the recipe's epochs, or minutes, and yields each step and each epoch as it ends.

    Writes the metrics of every epoch, a checkpoint every so many minutes (`Recipe.checkpoint`), and at the end the
    state that an extension of the run starts from. The iteration may be stopped after any step: what was trained is
    then kept by `folder.save(trainer.state())`.
    """
    recipe, budget, first = trainer.recipe, None, None
    if trainer.step == 0:
        first = trainer.record(watch if trainer.team.leads else None)
        folder.append(first)
    if recipe.minutes and not trainer.done:
        budget = Budget.measured(trainer)
        trainer.plan = budget.plan(trainer)
        yield Planned(budget.sentence(trainer), budget.warning(trainer))
    if first is not None:
        yield first
    while not trainer.done:
        _step(trainer, budget)
        epoch = None
        if trainer.between_epochs or trainer.done:
            looking = trainer.team.leads and (trainer.done or trainer.epoch % recipe.evaluate == 0)
            epoch = trainer.record(watch if looking else None)
            trainer.check_norm(epoch)
            folder.append(epoch)
        left = None
        if budget is not None:
            trainer.plan = trainer.plan if trainer.done else budget.plan(trainer)
            left = 0.0 if trainer.done else budget.left(trainer)
        yield Step(trainer.step, trainer.plan.steps, left)
        if epoch is not None:
            yield epoch
        due = folder.due(recipe.checkpoint) and not trainer.done
        if trainer.team.any(due, trainer.program.device):
            with trainer.aside():
                folder.save(trainer.state())
    folder.finish(trainer.state())


def _step(trainer: Trainer, budget: Budget | None) -> None:
    """One step, whose duration the budget takes into account."""
    progress, before = trainer.progress, trainer.seconds
    trainer.train_step()
    if budget is not None:
        budget.note(progress, trainer.seconds - before)
