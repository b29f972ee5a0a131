"""A linear map as its action, and the same map with rows and columns scaled image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
