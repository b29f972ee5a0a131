"""How radius, weight of the clean loss and rate move over a run: functions of its progress from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llcert_train.settings import Decay, Recipe


@dataclass(frozen=True)
class Schedule:
    """The paper's schedules, in shares of the run. eps: the radius certified at, in pixel units."""

    recipe: Recipe
    eps: float

    def ramped(self, progress: float) -> float:
        """From 0 at the end of the warm-up to 1 at the end of the ramp, linearly."""
        begin, end = self.recipe.warm_up, self.recipe.ramp
        if progress >= end:
            return 1.0
        return max(0.0, (progress - begin) / (end - begin)) if end > begin else 0.0

    @property
    def stretches(self) -> tuple[float, ...]:
        """Where the stretches end, as shares of the run, that differ in what a step costs: radius 0, and each phase."""
        return tuple(sorted({self.recipe.warm_up, 1 - self.recipe.last_share, 1.0} - {0.0}))

    def phase(self, progress: float) -> int:
        """Which of the recipe's phases it is."""
        return int(self.recipe.last_share > 0 and progress >= 1 - self.recipe.last_share)

    def radius(self, progress: float) -> float:
        """The radius trained at, in pixel units."""
        return self.ramped(progress) * self.recipe.overshoot * self.eps

    def kappa(self, progress: float) -> float:
        """The weight of the clean loss, from 1 to the recipe's."""
        return 1.0 - self.ramped(progress) * (1.0 - self.recipe.kappa)

    def rate(self, progress: float) -> float:
        """Adam's rate: rising linearly if asked, then constant, then falling to the recipe's last."""
        recipe, begin = self.recipe, self.recipe.decay_from
        if progress <= begin:
            fallen = recipe.rate
        else:
            share = (progress - begin) / (1 - begin)
            if recipe.decay is Decay.COSINE:
                fallen = recipe.final_rate + (recipe.rate - recipe.final_rate) * (1 + math.cos(math.pi * share)) / 2
            else:
                fallen = float(recipe.rate * (recipe.final_rate / recipe.rate) ** share)
        return fallen * progress / recipe.rate_warm_up if progress < recipe.rate_warm_up else fallen
