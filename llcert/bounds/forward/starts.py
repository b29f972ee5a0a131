"""Where the iterations that estimate norms begin (paper, section 4 and Table 1; docs/method.md, section 7.1)."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from torch import Tensor

from llcert.bounds.global_lipschitz.walk import GlobalBound
from llcert.program import Term
from llcert.spectral import random_start


class Start(enum.Enum):
    """Where a power iteration starts (paper, section 4; Table 1)."""

    RANDOM = "random"
    SAVED = "saved"  # vectors handed in, one for each image; random where there are none
    UNMASKED = "unmasked"  # the singular vector of the unmasked map


def starting_vector(
    term: Term,
    global_bound: GlobalBound,
    columns: Tensor,
    start: Start,
    saved: Mapping[Term, Tensor] | None,
    seed: int | Tensor,
) -> Tensor:
    """`[batch, *columns]`: where the power iteration of a term begins.

    The unmasked vector is nudged; saved ones are taken as they are.
    """
    if start is Start.SAVED and saved is not None and term in saved:
        return saved[term].to(columns.device, columns.dtype)
    if start is Start.UNMASKED:
        return nudged(global_bound.vectors[term].expand_as(columns), seed)
    return random_start(tuple(columns.shape), columns, seed)


def nudged(vectors: Tensor, seed: int | Tensor) -> Tensor:
    """Unit vectors of another map and as much noise, `[batch, *columns]`, a start for an iteration on this one.

    Near a singular vector that is not the largest one a power iteration stands still, and stops below the norm.
    """
    return vectors + random_start(tuple(vectors.shape), vectors, seed) / max(vectors.shape[1:].numel(), 1) ** 0.5
