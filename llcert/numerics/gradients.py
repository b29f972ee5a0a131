"""Functions of torch with its values and its derivatives, which are found in fewer and cheaper passes over memory.

On a processor torch differentiates maxima, minima and lengths by masks, at ten times the price of a product and more:
that was half of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """The larger of each two entries, broadcast; where they are equal, each gets half of the gradient."""
    return _Extreme.apply(a, b, True) if _differentiated(a, b) else torch.maximum(a, b)


def minimum(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of each two entries, likewise."""
    return _Extreme.apply(a, b, False) if _differentiated(a, b) else torch.minimum(a, b)


def sorted_pairs(z: Tensor, axis: int) -> Tensor:
    """The larger of each two entries in the first half of an axis, the smaller in its second half; of two equal ones,
    each gets the gradient at its own place."""
    if _differentiated(z):
        return _Sorted.apply(z, axis)
    a, b = z.chunk(2, axis)
    return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), axis)


def root(x: Tensor) -> Tensor:
    """The square root, NaN below zero; its slope at zero is taken as zero."""
    return _Root.apply(x) if _differentiated(x) else x.sqrt()


def length(x: Tensor, start: int) -> Tensor:
    """The Euclidean norm over the axes from `start` on, added up in float64, in the type of x; slope zero at zero."""
    axes = tuple(range(start, x.ndim))
    return _Length.apply(x, axes) if _differentiated(x) else _length(x, axes)


def distances(rows: Tensor) -> Tensor:
    """The lengths of the differences of rows `[n, entries]`, `[n, n]`, by products in float64; slope zero at zero.

    Exact but for the rounding of float32 rows, unless a difference is 1e-8 of the rows' distance from their mean.
    """
    return _Distances.apply(rows)


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


class _Extreme(torch.autograd.Function):
    """The larger of two where `largest`, else the smaller."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, largest: bool) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.largest = largest
        return torch.maximum(a, b) if largest else torch.minimum(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        lead = a - b if ctx.largest else b - a
        own = lead.sign_().add_(1).mul_(0.5).mul_(gradient)  # all of it, none, or half where the lead is 0 or NaN
        other = (gradient - own).sum_to_size(b.shape) if ctx.needs_input_grad[1] else None
        return own.sum_to_size(a.shape) if ctx.needs_input_grad[0] else None, other, None


class _Sorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, axis: int) -> Tensor:
        ctx.save_for_backward(z)
        ctx.axis = axis
        result = torch.empty_like(z)
        (a, b), (larger, smaller) = z.chunk(2, axis), result.chunk(2, axis)
        torch.maximum(a, b, out=larger)
        torch.minimum(a, b, out=smaller)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """By bits, as `torch.where` takes ten times as long: what two numbers differ in changes places where a < b."""
        (z,) = ctx.saved_tensors
        kind = _BITS[gradient.itemsize]
        result = torch.empty_like(gradient)
        (a, b), (larger, smaller) = z.chunk(2, ctx.axis), gradient.view(kind).chunk(2, ctx.axis)
        exchanged = (a - b).view(kind).bitwise_right_shift_(8 * gradient.itemsize - 1)  # all bits are the sign
        exchanged &= torch.bitwise_xor(larger, smaller)
        first, second = result.view(kind).chunk(2, ctx.axis)
        torch.bitwise_xor(larger, exchanged, out=first)
        torch.bitwise_xor(smaller, exchanged, out=second)
        return result, None


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value = x.sqrt()
        ctx.save_for_backward(value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward((gradient / value).mul_(0.5), value, 0)  # the first where value > 0


class _Length(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        value = _length(x, axes)
        ctx.save_for_backward(x, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, value = ctx.saved_tensors
        wide = (*value.shape, *[1] * (x.ndim - value.ndim))
        unit = x / torch.where(value == 0, 1.0, value).reshape(wide)  # first: a gradient over a tiny length overflows
        return unit.mul_(gradient.reshape(wide)), None


def _length(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(x, dim=axes, dtype=torch.float64).to(x.dtype)


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        wide = rows.double()
        wide = wide - wide.mean(0)
        products = wide @ wide.T
        squares = products.diagonal()
        value = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt().fill_diagonal_(0)
        ctx.save_for_backward(rows, value)
        return value.to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Of `|r_i - r_j|` to r_i: their difference over its length; all of them are one product with the rows."""
        rows, value = ctx.saved_tensors
        weights = torch.where(value > 0, gradient / torch.where(value > 0, value, 1.0), 0.0)
        weights = weights + weights.T
        return (torch.diag(weights.sum(1)) - weights).to(rows.dtype) @ rows
