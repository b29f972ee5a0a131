"""Operators that reorder entries and never add them: reshape and transpose; and expand, which repeats them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp, Node, Shape, apply
from llcert.registry import BATCH, Call, OnnxBuilder, batched_shape, from_onnx, to_onnx


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


def read_shape(call: Call, node: Node, target: Sequence[int], *, zero_copies: bool) -> Shape:
    """The shape, without batch axis, that a Reshape target means; a batch size of one may be baked in.

    Raises UnsupportedModel where the target moves entries between images.
    """
    foreign = ((BATCH,) if call.batched else ()) + node.shape
    sizes = [
        foreign[i] if n == 0 and zero_copies and i < len(foreign) else (n if n >= -1 else 0)
        for i, n in enumerate(target)
    ]
    if call.batched:
        if not sizes or (sizes[0] not in (-1, 1, BATCH)):
            call.refuse(f"reshapes to {tuple(target)}, whose first axis is not the batch axis")
        sizes = sizes[1:]
    total = math.prod(node.shape)
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        sizes = [total // known if n == -1 and known else n for n in sizes]
    if any(n < 1 for n in sizes) or math.prod(sizes) != total:
        call.refuse(f"reshapes a value of shape {node.shape} (without batch axis) to {tuple(target)}")
    return tuple(sizes)


@from_onnx("Reshape")
def read_reshape(call: Call) -> Node:
    node, target = call.node(0), call.integers("shape", 1)
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
    if math.prod(node.shape[: max(axis - 1, 0)]) != 1:
        call.refuse(f"flattens the batch axis together with others (axis {axis}); flatten from axis 1")
    return reshaped(node, (math.prod(node.shape),))


@from_onnx("Squeeze")
def read_squeeze(call: Call) -> Node:
    node, axes = call.node(0), call.integers("axes", 1)
    if axes is None:
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
    node, target = call.node(0), call.integers("shape", 1)
    if target is None or min(target, default=1) < 1:
        call.refuse(f"expands to {target}")
    if call.batched:
        if len(target) > len(node.shape) + 1:
            call.refuse(f"adds axes in front of the batch axis (target {target})")
        if len(target) == len(node.shape) + 1:
            if target[0] not in (1, BATCH):
                call.refuse(f"repeats images along the batch axis (target {target})")
            target = target[1:]
    return _expanded(call, node, tuple(torch.broadcast_shapes(node.shape, target)))


def _expanded(call: Call, node: Node, shape: Shape) -> Node:
    return node if node.shape == shape else apply(Expand(shape), node)


@from_onnx("DepthToSpace", "SpaceToDepth")
def read_pixel_shuffle(call: Call) -> Node:
    node, block = call.node(0), int(call.attributes.get("blocksize", 0))
    if not call.batched:
        call.refuse("needs a batch axis")
    channels, height, width = node.shape
    if call.kind == "SpaceToDepth":
        if block < 1 or height % block or width % block:
            call.refuse(f"blocksize {block} does not divide {node.shape}")
        split = reshaped(node, (channels, height // block, block, width // block, block))
        mixed = apply(Transpose((2, 4, 0, 1, 3)), split)
        return reshaped(mixed, (channels * block * block, height // block, width // block))
    if block < 1 or channels % (block * block):
        call.refuse(f"blocksize {block} does not divide {node.shape}")
    less = channels // (block * block)
    if call.attributes.get("mode", "DCR") == "DCR":
        mixed = apply(Transpose((2, 3, 0, 4, 1)), reshaped(node, (block, block, less, height, width)))
    else:
        mixed = apply(Transpose((0, 3, 1, 4, 2)), reshaped(node, (less, block, block, height, width)))
    return reshaped(mixed, (less, height * block, width * block))


@from_onnx("Identity")
def read_identity(call: Call) -> Node:
    return call.node(0)


@from_onnx("Dropout")
def read_dropout(call: Call) -> Node:
    training = call.constant(2)
    if training is not None and bool(training.any()):
        call.refuse("is in training mode; export the model after .eval()")
    if call.outputs > 1:
        call.refuse("its mask is used; export the model after .eval()")
    return call.node(0)


_FLOAT, _DOUBLE = 1, 11


@from_onnx("Cast")
def read_cast(call: Call) -> Node:
    if call.attributes.get("to") not in (_FLOAT, _DOUBLE):
        call.refuse(
            "casts a value of the image to another type than float32 or float64, which rounds it; "
            "remove the cast or export the model in float32"
        )
    return call.node(0)


@from_onnx("CastLike")
def read_cast_like(call: Call) -> Node:
    like = call.inputs[1] if len(call.inputs) > 1 else None
    if isinstance(like, Tensor) and like.dtype not in (torch.float32, torch.float64):
        call.refuse("casts a value of the image to another type than float32 or float64, which rounds it")
    return call.node(0)


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
