"""The interface between networks and norm solvers: linear maps A, and the masked maps `diag(w) A diag(v)`.

A map is given by its action and its adjoint. A proof also needs to know how far float64 products with it may be off
(`Provable`). docs/method.md, sections 7 and 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


class LinearMap(Protocol):
    """A linear map A between batched values, the same for every image of the batch."""

    @property
    def columns(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """`A x`, `[batch, *output shape]`; x: `[batch, *columns]`."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """`A* y`, `[batch, *columns]`; y: `[batch, *output shape]`."""
        ...


@runtime_checkable
class Provable(LinearMap, Protocol):
    """A linear map with bounds on its rounding errors, for proofs of its norm (docs/method.md, section 7.2)."""

    @property
    def roundings(self) -> int:
        """A count n with `|fl(A x) - A x| <= gamma_n N |x|`, entrywise and for sums in any order, N as in `magnitude`.

        Underflow is not included; see `underflow`.
        """
        ...

    @property
    def underflow(self) -> float:
        """An upper bound of what underflow adds to the error of an entry of `apply(x)`, `magnitude(x)`; `|x| <= 1`."""
        ...

    def magnitude(self, x: Tensor) -> Tensor:
        """`N x` for a matrix N that is entrywise at least |A|, up to `roundings` and `underflow`; x: `>= 0`."""
        ...

    def paths(self, x: Tensor) -> Tensor:
        """`P x`, where P counts the paths of nonzero coefficients from each input entry to each output; x: float64.

        P says where A may have entries: A is zero wherever P is.
        """
        ...


@dataclass(frozen=True)
class Masked:
    """`M = diag(rows) A diag(columns)`, one for each image. A zero factor deletes its row or column (eq. 6 of the
    paper).

    rows: `[batch, *output shape]`. columns: `[batch, *input shape]`. Both are 0/1 masks or other factors, in the map's
    number format.
    """

    map: LinearMap
    rows: Tensor
    columns: Tensor

    @property
    def batch(self) -> int:
        """The number of images."""
        return self.columns.shape[0]

    def apply(self, x: Tensor) -> Tensor:
        """`M x`, `[batch, *output shape]`; x: `[batch, *input shape]`."""
        return self.map.apply(x * self.columns) * self.rows

    def adjoint(self, y: Tensor) -> Tensor:
        """`M* y`, `[batch, *input shape]`; y: `[batch, *output shape]`."""
        return self.map.adjoint(y * self.rows) * self.columns

    def select(self, images: Tensor) -> Masked:
        """The masked maps of some images; images: a mask or indices."""
        return Masked(self.map, self.rows[images], self.columns[images])
