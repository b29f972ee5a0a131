"""How many steps fit into a time limit: by what they cost before the run, and anew after every step."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from llcert_train.settings import Loss
from llcert_train.trainer import Plan, Trainer

_KEPT = 0.98
"""What the pace keeps of the steps before, at each one."""

_FEW = 5
"""Fewer epochs than that are too few for a radius that grows."""

_MOST = 1 << 40


@dataclass
class Budget:
    """The seconds of a run, and what its steps take of them.

    costs: seconds of a step in each stretch of the run, beside the share of the run at which that ends. spent,
    expected: seconds of the steps so far, and what they cost by `costs`, both fading.
    """

    seconds: float
    costs: tuple[tuple[float, float], ...]
    spent: float = 0.0
    expected: float = 0.0

    @staticmethod
    def measured(trainer: Trainer) -> Budget:
        """Of a run at its beginning, or that goes on: steps of each stretch ahead are measured, nothing is moved."""
        costs, begin = [], trainer.progress
        for end in trainer.schedule.stretches:
            if end > begin or end == 1:
                costs.append((end, trainer.cost((begin + end) / 2)))
                begin = end
        return Budget(60 * trainer.recipe.minutes, tuple(costs))

    def note(self, progress: float, seconds: float) -> None:
        """A step took so long at some share of the run."""
        cost = next(cost for end, cost in self.costs if progress < end or end == 1)
        self.spent, self.expected = _KEPT * self.spent + seconds, _KEPT * self.expected + cost

    @property
    def pace(self) -> float:
        """How much slower steps are now than they were when they were measured."""
        return self.spent / self.expected if self.expected else 1.0

    def plan(self, trainer: Trainer) -> Plan:
        """As many steps as fit into what is left, at most the recipe's epochs, and one at least: a run is completed."""
        epochs, step = trainer.recipe.epochs, trainer.step
        most = epochs * trainer.plan.steps_per_epoch - step if epochs else _MOST
        left = self.seconds - trainer.seconds
        fitting = bisect_right(range(1, most + 1), left, key=lambda steps: self.needed(trainer, steps))
        fitting = trainer.team.agreed(max(1, fitting), trainer.program.device)
        return trainer.plan.changed(step, step + fitting)

    def needed(self, trainer: Trainer, steps: int) -> float:
        """The seconds that so many steps take to the end of the run, looks included."""
        every = trainer.recipe.evaluate * trainer.plan.steps_per_epoch
        looks = (trainer.step + steps - 1) // every - trainer.step // every + 1
        return steps * self.pace * self._mean(trainer.progress) + looks * trainer.look

    def _mean(self, progress: float) -> float:
        """What the steps ahead cost on average."""
        total, begin = 0.0, progress
        for end, cost in self.costs:
            total += max(0.0, end - begin) * cost
            begin = max(begin, end)
        return total / (1 - progress) if progress < 1 else self.costs[-1][1]

    def left(self, trainer: Trainer) -> float:
        """The seconds to the end of the plan."""
        return self.needed(trainer, trainer.plan.steps - trainer.step)

    def sentence(self, trainer: Trainer) -> str:
        """The plan, for the user."""
        epochs, seconds = self._epochs(trainer), self.left(trainer)
        told = f"{_short(epochs)}{' more' if trainer.step else ''} epochs of {_short(seconds / epochs)} s"
        limit = (self.seconds - trainer.seconds) / 60
        if trainer.plan.steps == trainer.recipe.epochs * trainer.plan.steps_per_epoch:
            return f"{told} take {_short(seconds / 60)} of {_short(limit)} minutes"
        return f"{told} fit into {f'the {_short(limit)} minutes left' if trainer.step else f'{_short(limit)} minutes'}"

    def warning(self, trainer: Trainer) -> str | None:
        """What is wrong with a plan of too few epochs."""
        plan, recipe = trainer.plan, trainer.recipe
        epochs = plan.steps / plan.steps_per_epoch
        if epochs >= _FEW or all(phase.loss is Loss.STANDARD for phase in recipe.phases):
            return None
        minutes = math.ceil((trainer.seconds + self.left(trainer)) * _FEW / epochs / 60)
        return (
            f"{_short(epochs)} epochs are too few for a radius that grows over {_short(recipe.ramp * epochs)} of them: "
            f"give --minutes {minutes} or more, a smaller network or fewer images"
        )

    def _epochs(self, trainer: Trainer) -> float:
        """Epochs ahead."""
        return (trainer.plan.steps - trainer.step) / trainer.plan.steps_per_epoch


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
