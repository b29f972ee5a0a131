"""A linear map as its action, and the same map with rows and columns scaled image by image."""

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
    """A linear map that says what rounding does to it, as a proof needs to know."""

    @property
    def roundings(self) -> int:
        """The n of `|fl(A x) - A x| <= gamma_n N |x|`, in any order of summation, underflow aside; N of `magnitude`."""
        ...

    @property
    def underflow(self) -> float:
        """Upper bound of what underflow adds to the error of an entry of `apply(x)` or `magnitude(x)` for |x| <= 1."""
        ...

    def magnitude(self, x: Tensor) -> Tensor:
        """`N x` for a matrix N that is entrywise at least |A|, up to `roundings` and `underflow`; x >= 0."""
        ...

    def paths(self, x: Tensor) -> Tensor:
        """`P x` for a matrix P of integers, positive wherever A is not zero by structure; x: float64."""
        ...


@dataclass(frozen=True)
class Masked:
    """`diag(rows) A diag(columns)`, one for each image: zeroing has the same norm as deleting (eq. 6).

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
