"""The free parameters of a backward pass, slopes and multipliers at every relaxation, and policies that choose them.

A relaxation bounds `a . phi(z)` from below by a linear function of z (`llcert.domain.relaxation`), for any slopes
(alpha of alpha-CROWN) and any multiplier of its ellipsoid (lambda of docs/method.md, section 9.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from llcert.domain.relaxation import Relaxation
from llcert.domain.row_sharing import UNSHARED, RowSharing

Key = tuple[int, int]
"""A relaxation of a block's activation: the number of the block in its program, and that of the relaxation. A backward
pass goes through every block once, so no two choices of a pass share a key."""


@dataclass(frozen=True)
class Choice:
    """Slopes and multipliers at one relaxation; any slopes and any `lam >= 0` give a bound.

    slopes: `[batch, rows, *shape]`. lam: the multipliers, `[batch, bounds]`, one a row where rows are not shared.
    constant: the relaxation's constant for these very rows, its rounding not paid for, `[batch, bounds]`, where that
    is known.
    """

    slopes: Tensor
    lam: Tensor
    constant: Tensor | None = None


Choices = Mapping[Key, Choice]
"""The choices of a backward pass, at every relaxation that it passes."""

Policy = Callable[[Key, Relaxation, Tensor, RowSharing], Choice]
"""Chooses at a relaxation, for the coefficients on its output and their sharing. It keeps nothing."""


def tightest(
    key: Key, relaxation: Relaxation, rows: Tensor, sharing: RowSharing = UNSHARED, iterations: int = 8
) -> Choice:
    """The policy in closed form: slopes that are tightest over the box (CROWN's for a ReLU), multipliers by a search.

    iterations: of the search (docs/method.md, section 9.1).
    """
    slopes = relaxation.slopes(rows)
    lam, constant = relaxation.multipliers(rows, slopes, iterations, sharing)
    return Choice(slopes, lam, constant)


def fixed(choices: Choices) -> Policy:
    """The policy of given slopes and multipliers."""
    return lambda key, relaxation, rows, sharing: choices[key]
