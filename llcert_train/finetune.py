"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from llcert_train.folder import TrainingFolder
from llcert_train.metrics import Epoch
from llcert_train.trainer import Plan, Trainer
from llcert_train.watch import Watch

_MARGIN = 0.9
"""Share of a time limit that is planned for."""


@dataclass(frozen=True)
class Step:
    """A step was done: so many of all."""

    done: int
    total: int


def finetune(trainer: Trainer, watch: Watch, folder: TrainingFolder) -> Iterator[Step | Epoch]:
    """Trains to the end of the plan, or of the recipe's minutes; each step and each epoch is told as it ends.

    Writes the metrics of every epoch and a checkpoint every so many minutes, and at the end. Whoever iterates may stop
    after any step and call `folder.save(trainer.state())`.
    """
    recipe = trainer.recipe
    if trainer.step == 0:
        first = trainer.record(watch if trainer.team.leads else None)
        folder.append(first)
        yield first
    while not trainer.done and not out_of_time(trainer):
        trainer.train_step()
        step, epoch = Step(trainer.step, trainer.plan.steps), None
        if trainer.between_epochs:
            last = out_of_time(trainer) or trainer.done
            looking = trainer.team.leads and (last or trainer.epoch % recipe.evaluate == 0)
            epoch = trainer.record(watch if looking else None)
            trainer.check_norm(epoch)
            folder.append(epoch)
        yield step
        if epoch is not None:
            yield epoch
        if trainer.team.any(folder.due(recipe.checkpoint), trainer.program.device):
            folder.save(trainer.state())
    folder.save(trainer.state())


def out_of_time(trainer: Trainer) -> bool:
    """Whether the recipe's minutes are over, at the end of an epoch; agreed by all processes."""
    limit = 60 * trainer.recipe.minutes
    if not limit or not trainer.between_epochs:
        return False
    return trainer.team.any(trainer.seconds > limit, trainer.program.device)


def planned(trainer: Trainer, watch: Watch) -> Plan:
    """The recipe's epochs, or as many as fit into its minutes, by what a step and a look cost right now."""
    recipe, plan = trainer.recipe, trainer.plan
    if not recipe.minutes:
        return plan
    began = time.perf_counter()
    watch(trainer.unmasked)
    look = time.perf_counter() - began
    epoch = trainer.cost() * plan.steps_per_epoch + look / recipe.evaluate
    fitting = int(_MARGIN * 60 * recipe.minutes / max(epoch, 1e-9))
    epochs = trainer.team.agreed(max(1, min(recipe.epochs, fitting)), trainer.program.device)
    return Plan(epochs, plan.steps_per_epoch)
