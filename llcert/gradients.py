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


def root(x: Tensor) -> Tensor:
    """The square root, NaN below zero; its slope at zero is taken as zero."""
    return _Root.apply(x) if _differentiated(x) else x.sqrt()


def length(x: Tensor, start: int) -> Tensor:
    """The Euclidean norm over the axes from `start` on, added up in float64, in the type of x; slope zero at zero."""
    axes = tuple(range(start, x.ndim))
    return _Length.apply(x, axes) if _differentiated(x) else _length(x, axes)


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
