"""Linear maps given by their action, and the masked maps `diag(w) A diag(v)` whose norms are wanted.

docs/method.md, section 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


class LinearMap(Protocol):
    """A linear map between batched values, the same for every image of the batch."""

    @property
    def columns(self) -> tuple[int, ...]:
        """The shape of one input."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """`A x`; x: `[batch, *columns]`."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """`A* y`, `[batch, *columns]`."""
        ...


@runtime_checkable
class Provable(LinearMap, Protocol):
    """A linear map with bounds on its rounding errors, for proofs of its norm (docs/method.md, section 7.2)."""

    @property
    def roundings(self) -> int:
        """The n of `|fl(A x) - A x| <= gamma_n N |x|`, sums in any order, underflow aside; N as in `magnitude`."""
        ...

    @property
    def underflow(self) -> float:
        """Upper bound of the error that underflow adds to an entry of `apply(x)` or `magnitude(x)` for `|x| <= 1`."""
        ...

    def magnitude(self, x: Tensor) -> Tensor:
        """`N x` for a matrix N that is entrywise at least |A|, up to `roundings` and `underflow`; x >= 0."""
        ...

    def paths(self, x: Tensor) -> Tensor:
        """`P x`, P the number of paths of nonzero coefficients from each entry to each output; x: float64."""
        ...


@dataclass(frozen=True)
class Masked:
    """`diag(rows) A diag(columns)`, one for each image. Rows and columns that are zero count as deleted (eq. 6).

    rows: `[batch, *output shape]`; columns: `[batch, *input shape]`; 0/1 masks or factors of the map's type.
    """

    map: LinearMap
    rows: Tensor
    columns: Tensor

    @property
    def batch(self) -> int:
        return self.columns.shape[0]

    def apply(self, x: Tensor) -> Tensor:
        """`[batch, *output shape]`."""
        return self.map.apply(x * self.columns) * self.rows

    def adjoint(self, y: Tensor) -> Tensor:
        """`[batch, *input shape]`."""
        return self.map.adjoint(y * self.rows) * self.columns

    def select(self, images: Tensor) -> Masked:
        """The maps of some images; images: mask or index."""
        return Masked(self.map, self.rows[images], self.columns[images])
