"""What a backward pass may choose at every step of an activation, and the policies that choose it.

A step bounds `a . phi(z)` from below by a linear function of z (`llcert.domain.relaxation`); its slopes and the
multiplier of its ellipsoid are free: alpha of alpha-CROWN, lambda of docs/method.md, section 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from llcert.domain.relaxation import Relaxation
from llcert.domain.row_sharing import UNSHARED, RowSharing

Key = tuple[int, int]
"""A step of a block's activation: the number of the block in its program, the number of the step. A backward pass
goes through every block once, with all that is pending there, so no two choices of a pass share a key."""


@dataclass(frozen=True)
class Choice:
    """What a backward pass may choose at a step; any slopes and any `lam >= 0` give a bound.

    slopes: `[batch, rows, *shape]`. lam: `[batch, bounds]`, one a row where rows are not shared. constant: what the
    step then adds for these very rows, without rounding, `[batch, bounds]`, where that is known.
    """

    slopes: Tensor
    lam: Tensor
    constant: Tensor | None = None


Choices = Mapping[Key, Choice]
"""The choices of a backward pass at every step that it passes."""

Policy = Callable[[Key, Relaxation, Tensor, RowSharing], Choice]
"""Chooses at a step, for the objectives' coefficients on its output and their sharing; keeps nothing."""


@dataclass(frozen=True)
class Tightest:
    """Slopes that are tightest over the box (CROWN's for a ReLU), and multipliers by a search.

    iterations: of the search.
    """

    iterations: int = 8

    def __call__(self, key: Key, step: Relaxation, rows: Tensor, sharing: RowSharing = UNSHARED) -> Choice:
        slopes = step.slopes(rows)
        lam, constant = step.multipliers(rows, slopes, self.iterations, sharing)
        return Choice(slopes, lam, constant)


@dataclass(frozen=True)
class Fixed:
    """Slopes and multipliers that are known already."""

    choices: Choices

    def __call__(self, key: Key, step: Relaxation, rows: Tensor, sharing: RowSharing = UNSHARED) -> Choice:
        return self.choices[key]
