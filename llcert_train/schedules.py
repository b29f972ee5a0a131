"""How radius, weight of the clean loss and rate move over a run: functions of its progress from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

from llcert_train.settings import Recipe


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

    def radius(self, progress: float) -> float:
        """The radius trained at, in pixel units."""
        return self.ramped(progress) * self.recipe.overshoot * self.eps

    def kappa(self, progress: float) -> float:
        """The weight of the clean loss, from 1 to the recipe's."""
        return 1.0 - self.ramped(progress) * (1.0 - self.recipe.kappa)

    def rate(self, progress: float) -> float:
        """Adam's rate: constant at first, then falling exponentially to the recipe's last."""
        begin = self.recipe.decay_from
        if progress <= begin:
            return self.recipe.rate
        share = (progress - begin) / (1 - begin)
        return float(self.recipe.rate * (self.recipe.final_rate / self.recipe.rate) ** share)
