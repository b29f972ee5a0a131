"""Comparisons of the constants in a graph, as rewrites need them."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.ir import Node, Op, apply
from llcert.ops.registry import common_shape

Fingerprint = tuple[object, ...]

_SMALL = 1 << 16


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Equal for tensors that are and stay equal: one storage, or (small, not trained) the same contents."""
    kind = (tensor.dtype, tensor.device, tuple(tensor.shape))
    if not tensor.requires_grad and tensor.numel() <= _SMALL and tensor.device.type == "cpu":
        return (*kind, tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return (*kind, tensor.data_ptr(), tensor.stride())


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two constants are and stay equal."""
    if a is None or b is None:
        return a is b
    return a is b or fingerprint(a) == fingerprint(b)


def always(tensor: Tensor | None, value: float) -> bool:
    """Whether a constant that nobody trains equals one number everywhere."""
    return tensor is not None and not tensor.requires_grad and bool((tensor == value).all())


def higher(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The larger of two lower bounds, None for none; one of the two itself where it wins everywhere."""
    if a is None or b is None:
        return b if a is None else a
    shape = common_shape(a.shape, b.shape)
    if a.shape == shape and bool((a >= b).all()):
        return a
    if b.shape == shape and bool((b >= a).all()):
        return b
    return torch.maximum(a.detach(), b.detach())


def lower(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The smaller of two upper bounds, None for none; one of the two itself where it wins everywhere."""
    if a is None or b is None:
        return b if a is None else a
    shape = common_shape(a.shape, b.shape)
    if a.shape == shape and bool((a <= b).all()):
        return a
    if b.shape == shape and bool((b <= a).all()):
        return b
    return torch.minimum(a.detach(), b.detach())


def on(node: Node, op: Op, name: str = "") -> Node:
    """The operator applied to one value, under that value's name where no better one is known."""
    return apply(op, node, name=name or node.name)
