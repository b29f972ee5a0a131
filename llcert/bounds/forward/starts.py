"""Start vectors of the iterations that estimate norms (paper, section 4 and Table 1; docs/method.md, section 7.1).

For the estimated arithmetic of the forward propagation.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from torch import Tensor

from llcert.bounds.global_lipschitz.constants import GlobalBound
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
    """The start vector of each image for the norm of a term, `[batch, *columns]`.

    columns: the masks v of the term's source, `[batch, *columns]`. saved: vectors of earlier calls, taken as they are;
    the singular vector of the unmasked map gets noise added. seed: of random numbers, one or `[batch]`.
    """
    if start is Start.SAVED and saved is not None and term in saved:
        return saved[term].to(columns.device, columns.dtype)
    if start is Start.UNMASKED:
        return nudged(global_bound.vectors[term].expand_as(columns), seed)
    return random_start(tuple(columns.shape), columns, seed)


def nudged(vectors: Tensor, seed: int | Tensor) -> Tensor:
    """Unit vectors and as much noise, `[batch, *columns]`: a start from the singular vectors of another map.

    Without noise, near a singular vector of this map that is not the largest, an iteration hardly moves and stops below
    the norm.
    """
    return vectors + random_start(tuple(vectors.shape), vectors, seed) / max(vectors.shape[1:].numel(), 1) ** 0.5
