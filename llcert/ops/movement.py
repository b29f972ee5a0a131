"""Operators that reorder entries and never add them: reshape and transpose; and expand, which repeats them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp, Node, Shape, apply, number
from llcert.ir.batch_size import BATCH, BatchSize, Size
from llcert.ops.registry import Call, OnnxBuilder, batched_shape, common_shape, from_onnx, from_torch_op, to_onnx


class Movement(LinearOp):
    """A linear map each of whose outputs is one of its inputs as it is.

    An input may be repeated or left out; where none is repeated, the map is a scaled permutation
    (`LinearOp.is_scaled_permutation`).
    """

    roundings = 0
    copies = True

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return multiple(self, number(entrywise, 1.0))


@dataclass(frozen=True)
class Multiple(LinearOp):
    """A number times another linear map, without its offset: what entrywise changes make of coefficients of 1."""

    map: LinearOp
    factor: float
    roundings = 6

    def linear(self, x: Tensor) -> Tensor:
        return self.factor * self.map.linear(x)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return multiple(self.map, number(entrywise, self.factor))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return self.factor * self.map.adjoint(y, shape)


def multiple(op: LinearOp, factor: float) -> LinearOp:
    """A number times a linear map without offset."""
    return op if factor == 1 else Multiple(op, factor)


@dataclass(frozen=True)
class Reshape(Movement):
    """The same entries in row-major order under another shape."""

    shape: Shape
    is_scaled_permutation = True

    def linear(self, x: Tensor) -> Tensor:
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(f"{tuple(x.shape[1:])} does not reshape to {self.shape}")
        return x.reshape(x.shape[0], *self.shape)

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return y.reshape(y.shape[0], *shape)


@dataclass(frozen=True)
class Transpose(Movement):
    """Axes reordered: output axis i is input axis `order[i]`."""

    order: Shape
    is_scaled_permutation = True

    def linear(self, x: Tensor) -> Tensor:
        return x.permute(0, *(1 + a for a in self.order))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return y.permute(0, *(1 + a for a in back))


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


def reshaped(node: Node, shape: Shape) -> Node:
    """The same entries under another shape; the node itself where it has that shape."""
    return node if node.shape == shape else apply(Reshape(shape), node)


def read_shape(call: Call, node: Node, target: Sequence[Size], *, zero_copies: bool) -> Shape:
    """The shape, without batch axis, that a Reshape target means.

    Raises UnsupportedModel where the target moves entries between images.
    """
    foreign: tuple[Size, ...] = (*((BATCH,) if call.batched else ()), *node.shape)
    given = [foreign[i] if zero_copies and i < len(foreign) and _is(n, 0) else n for i, n in enumerate(target)]
    if call.batched:
        if not given or not (_is(given[0], -1) or call.is_batch(given[0])):
            call.refuse(f"reshapes to {tuple(target)}, whose first axis is not the batch axis")
        given = given[1:]
    if any(isinstance(n, BatchSize) for n in given):
        call.refuse(f"reshapes to {tuple(target)}, which mixes the images of a batch")
    sizes, total = [n for n in given if isinstance(n, int)], math.prod(node.shape)
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        sizes = [total // known if n == -1 and known else n for n in sizes]
    if any(n < 1 for n in sizes) or math.prod(sizes) != total:
        call.refuse(f"reshapes a value of shape {node.shape} (without batch axis) to {tuple(target)}")
    return tuple(sizes)


def _is(size: Size, number: int) -> bool:
    return isinstance(size, int) and size == number


@from_onnx("Reshape")
def read_reshape(call: Call) -> Node:
    node, target = call.node(0), call.sizes("shape", 1)
    if target is None:
        call.refuse("has no target shape")
    return reshaped(node, read_shape(call, node, target, zero_copies=not call.attributes.get("allowzero", 0)))


@from_onnx("Flatten")
def read_flatten(call: Call) -> Node:
    node, axis = call.node(0), int(call.attributes.get("axis", 1))
    rank = len(node.shape) + call.batched
    if not -rank <= axis <= rank:
        call.refuse(f"axis {axis} is out of range for a value of {rank} dimensions")
    axis = axis + rank if axis < 0 else axis
    if not call.batched:
        return reshaped(node, (math.prod(node.shape[:axis]), math.prod(node.shape[axis:])))
    if math.prod(node.shape[: max(axis - 1, 0)]) != 1 or (axis == 0 and call.batch != 1):
        call.refuse(f"flattens the batch axis together with others (axis {axis}); flatten from axis 1")
    return reshaped(node, (math.prod(node.shape),))


@from_onnx("Squeeze")
def read_squeeze(call: Call) -> Node:
    node, axes = call.node(0), call.integers("axes", 1)
    if not axes:
        if call.batched:
            call.refuse("squeezes every axis of one, which the batch axis is for one image; name the axes")
        gone = {i for i, n in enumerate(node.shape) if n == 1}
    else:
        gone = {call.axis(a, len(node.shape)) for a in axes}
    if any(node.shape[i] != 1 for i in gone):
        call.refuse(f"squeezes an axis of {node.shape} that is larger than one")
    return reshaped(node, tuple(n for i, n in enumerate(node.shape) if i not in gone))


@from_onnx("Unsqueeze")
def read_unsqueeze(call: Call) -> Node:
    node, axes = call.node(0), call.integers("axes", 1)
    if axes is None:
        call.refuse("has no axes")
    rank = len(node.shape) + len(axes)
    new = {call.axis(a, rank) for a in axes}
    if len(new) != len(axes):
        call.refuse(f"axes {axes} repeat")
    old = iter(node.shape)
    return reshaped(node, tuple(1 if i in new else next(old) for i in range(rank)))


@from_onnx("Transpose")
def read_transpose(call: Call) -> Node:
    node = call.node(0)
    rank = len(node.shape) + call.batched
    order = call.integers("perm") or tuple(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        call.refuse(f"perm {order} does not reorder {rank} axes")
    if call.batched:
        if order[0] != 0:
            call.refuse("moves the batch axis; a certificate looks at one image at a time")
        order = tuple(a - 1 for a in order[1:])
    return node if order == tuple(range(len(order))) else apply(Transpose(order), node)


@from_onnx("Expand")
def read_expand(call: Call) -> Node:
    node, target = call.node(0), call.sizes("shape", 1)
    if target is None:
        call.refuse("has no target shape")
    if call.batched and len(target) > len(node.shape):
        first, *target_rest = target[-len(node.shape) - 1 :]
        if len(target) > len(node.shape) + 1 or not (_is(first, 1) or call.is_batch(first)):
            call.refuse(f"repeats images along the batch axis, or adds an axis in front of it (target {target})")
        target = tuple(target_rest)
    sizes = tuple(n for n in target if isinstance(n, int) and n >= 1)
    if len(sizes) < len(target):
        call.refuse(f"expands to {target}")
    return _expanded(call, node, common_shape(node.shape, sizes))


def _expanded(call: Call, node: Node, shape: Shape) -> Node:
    return node if node.shape == shape else apply(Expand(shape), node)


@from_torch_op("view", "reshape", "_unsafe_view", "view_as", "reshape_as")
def read_torch_reshape(call: Call) -> Node:
    node, other = call.node("self"), call.attributes.get("other")
    if isinstance(other, Node):
        return reshaped(node, other.shape)
    target = call.sizes("size") or call.sizes("shape")
    if target is None:
        call.refuse("reinterprets the bits of its value; use a reshape")
    return reshaped(node, read_shape(call, node, target, zero_copies=False))


@from_torch_op("flatten")
def read_torch_flatten(call: Call) -> Node:
    node = call.node("self")
    first, last = (call.axis(int(call.attributes[name]), len(node.shape)) for name in ("start_dim", "end_dim"))
    together = math.prod(node.shape[first : last + 1])
    return reshaped(node, (*node.shape[:first], together, *node.shape[last + 1 :]))


@from_torch_op("unflatten")
def read_torch_unflatten(call: Call) -> Node:
    node, sizes = call.node("self"), call.integers("sizes") or ()
    axis = call.axis(int(call.attributes["dim"]), len(node.shape))
    known = math.prod(n for n in sizes if n != -1)
    split = tuple(node.shape[axis] // known if n == -1 and known else n for n in sizes)
    return reshaped(node, (*node.shape[:axis], *split, *node.shape[axis + 1 :]))


@from_torch_op("squeeze")
def read_torch_squeeze(call: Call) -> Node:
    node, axes = call.node("self"), call.integers("dim")
    gone = set(range(len(node.shape))) if axes is None else {call.axis(a, len(node.shape)) for a in axes}
    return reshaped(node, tuple(n for i, n in enumerate(node.shape) if n != 1 or i not in gone))


@from_torch_op("unsqueeze")
def read_torch_unsqueeze(call: Call) -> Node:
    node = call.node("self")
    axis = call.axis(int(call.attributes["dim"]), len(node.shape) + 1)
    return reshaped(node, (*node.shape[:axis], 1, *node.shape[axis:]))


@from_torch_op("permute", "transpose", "swapaxes", "swapdims", "t", "movedim", "moveaxis")
def read_torch_permute(call: Call) -> Node:
    """Every torch operator that reorders axes, as torch itself reorders a tensor whose sizes number the axes."""
    node = call.node("self")
    rank = len(node.shape) + 1
    order = _torch_order(call, torch.empty(tuple(range(rank)), device="meta"))
    if order[0] != 0:
        call.refuse("moves the batch axis; a certificate looks at one image at a time")
    ours = tuple(a - 1 for a in order[1:])
    return node if ours == tuple(range(len(ours))) else apply(Transpose(ours), node)


def _torch_order(call: Call, numbered: Tensor) -> Shape:
    match call.kind:
        case "permute":
            moved = numbered.permute(call.integers("dims") or ())
        case "t":
            moved = numbered.t()
        case "movedim" | "moveaxis":
            moved = numbered.movedim(call.integers("source") or (), call.integers("destination") or ())
        case _:
            first, second = (int(v) for k, v in call.attributes.items() if k != "self")
            moved = numbered.transpose(first, second)
    return tuple(moved.shape)


@from_torch_op("expand", "expand_as")
def read_torch_expand(call: Call) -> Node:
    node, other = call.node("self"), call.attributes.get("other")
    if isinstance(other, Node):
        target: Sequence[Size] = other.shape
    else:
        first, *target = call.sizes("size") or (0,)
        if not (_is(first, -1) or call.is_batch(first)):
            call.refuse("repeats images along the batch axis, or adds an axis in front of it")
    if len(target) != len(node.shape) or any(isinstance(n, BatchSize) for n in target):
        call.refuse(f"expands a value of shape {node.shape} to {tuple(target)} (without batch axis)")
    sizes = (n if t == -1 else t for n, t in zip(node.shape, target, strict=True))
    return _expanded(call, node, tuple(n for n in sizes if isinstance(n, int)))


@to_onnx(Reshape)
def write_reshape(op: Reshape, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Reshape", [*inputs, builder.constant(batched_shape(op.shape))], name=node.name)


@to_onnx(Transpose)
def write_transpose(op: Transpose, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Transpose", inputs, name=node.name, perm=[0, *(a + 1 for a in op.order)])


@to_onnx(Expand)
def write_expand(op: Expand, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    (source,) = node.inputs
    missing = len(op.shape) - len(source.shape)
    (value,) = inputs
    if missing:
        value = builder.add("Reshape", [value, builder.constant(batched_shape((1,) * missing + source.shape))])
    return builder.add("Expand", [value, builder.constant(torch.tensor([1, *op.shape]))], name=node.name)
