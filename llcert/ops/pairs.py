"""Pairs of entries along one axis, as MaxMin sorts them, and the linear map that mixes both of a pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp, Shape, number


def split_pairs(z: Tensor, axis: int, neighbours: bool) -> tuple[Tensor, Tensor]:
    """The first and the second of every pair along an axis of `[batch, *shape]`, half as many entries each.

    axis: of one image's value. neighbours: pairs are neighbours; else the first half of the axis meets the second.
    """
    if neighbours:
        first, second = z.unflatten(axis + 1, (-1, 2)).unbind(axis + 2)
    else:
        first, second = z.chunk(2, axis + 1)
    return first, second


def merge_pairs(first: Tensor, second: Tensor, axis: int, neighbours: bool) -> Tensor:
    """The inverse of `split_pairs`."""
    if neighbours:
        return torch.stack((first, second), axis + 2).flatten(axis + 1, axis + 2)
    return torch.cat((first, second), axis + 1)


@dataclass(frozen=True)
class PairMix(LinearOp):
    """`own a + other b` and `own b + other a` in place of every pair (a, b): the linear maps of a MaxMin's loop
    transformation (docs/method.md, Proposition 6.2)."""

    axis: int
    neighbours: bool
    own: float
    other: float
    roundings = 6

    def linear(self, x: Tensor) -> Tensor:
        a, b = split_pairs(x, self.axis, self.neighbours)
        return merge_pairs(self.own * a + self.other * b, self.own * b + self.other * a, self.axis, self.neighbours)

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return self.linear(y)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return PairMix(self.axis, self.neighbours, number(entrywise, self.own), number(entrywise, self.other))
