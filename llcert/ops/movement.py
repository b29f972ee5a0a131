"""Operators that move entries and never add them: reshape, transpose, take, pad; and expand, which repeats them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LinearOp, Shape


class Movement(LinearOp):
    """A linear map all of whose coefficients are 0 or 1, so that entrywise changes leave it alone."""

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return self


@dataclass(frozen=True)
class Reshape(Movement):
    """The same entries in row-major order under another shape."""

    shape: Shape
    moves = True

    def linear(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return y.reshape(y.shape[0], *shape)


@dataclass(frozen=True)
class Transpose(Movement):
    """Axes reordered: output axis i is input axis `order[i]`."""

    order: Shape
    moves = True

    def linear(self, x: Tensor) -> Tensor:
        return x.permute(0, *(1 + a for a in self.order))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return y.permute(0, *(1 + a for a in back))


@dataclass(frozen=True)
class Take(Movement):
    """Some entries along one axis, in the order given: slices, splits, gathers with known indices, permutations.

    indices: non-negative.
    """

    axis: int
    indices: Shape

    @property
    def moves(self) -> bool:  # type: ignore[override]
        return len(set(self.indices)) == len(self.indices)

    @property
    def slice(self) -> slice | None:
        """The same choice as a slice with positive step, where there is one."""
        first, count = self.indices[0], len(self.indices)
        step = self.indices[1] - first if count > 1 else 1
        regular = step > 0 and all(b - a == step for a, b in zip(self.indices, self.indices[1:], strict=False))
        return slice(first, self.indices[-1] + 1, step) if regular else None

    def linear(self, x: Tensor) -> Tensor:
        regular = self.slice
        if regular is not None:
            return x[(slice(None),) * (self.axis + 1) + (regular,)]
        return x.index_select(self.axis + 1, torch.tensor(self.indices, device=x.device))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        x = torch.zeros(y.shape[0], *shape, dtype=y.dtype, device=y.device)
        regular = self.slice
        if regular is not None:
            x[(slice(None),) * (self.axis + 1) + (regular,)] = y
            return x
        return x.index_add(self.axis + 1, torch.tensor(self.indices, device=y.device), y)


@dataclass(frozen=True)
class Pad(LinearOp):
    """Constant padding. widths: (before, after) for each axis, non-negative; value: finite."""

    widths: tuple[tuple[int, int], ...]
    value: float = 0.0
    moves = True

    def linear(self, x: Tensor) -> Tensor:
        return F.pad(x, self._torch_widths)

    def __call__(self, *values: Tensor) -> Tensor:
        (x,) = values
        return F.pad(x, self._torch_widths, value=self.value)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Pad:
        return Pad(self.widths)

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        inside = (slice(before, before + n) for (before, _), n in zip(self.widths, shape, strict=True))
        return y[(slice(None), *inside)]

    @property
    def _torch_widths(self) -> list[int]:
        return [width for pair in reversed(self.widths) for width in pair]


@dataclass(frozen=True)
class Expand(Movement):
    """Broadcasting to a larger shape: entries are repeated, so the map has a norm above one."""

    shape: Shape

    def linear(self, x: Tensor) -> Tensor:
        missing = len(self.shape) - (x.ndim - 1)
        return x.reshape(x.shape[0], *[1] * missing, *x.shape[1:]).expand(x.shape[0], *self.shape)

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        aligned = (1,) * (len(self.shape) - len(shape)) + shape
        repeated = [i + 1 for i, (a, b) in enumerate(zip(aligned, self.shape, strict=True)) if a != b]
        summed = y.sum(repeated, keepdim=True) if repeated else y
        return summed.reshape(y.shape[0], *shape)
