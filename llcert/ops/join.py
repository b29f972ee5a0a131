"""Values that meet: sums, as of a residual connection, and concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Join, Node, Shape, apply
from llcert.ops.affine import Affine
from llcert.ops.movement import reshaped
from llcert.ops.pad import Pad
from llcert.ops.registry import Call, OnnxBuilder, Value, from_onnx, from_torch_op, to_onnx


@dataclass(frozen=True)
class Add(Join):
    """The sum of values of one shape. A difference is a sum with an Affine(-1) on one side."""

    roundings = 0

    def __call__(self, *values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def adjoints(self, y: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return (y,) * len(shapes)

    def commuted(self, order: Shape) -> Add:
        return self


@dataclass(frozen=True)
class Concat(Join):
    """Values side by side along one axis."""

    axis: int
    roundings = 0
    copies = True

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.axis + 1)

    def adjoints(self, y: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        return y.split([s[self.axis] for s in shapes], self.axis + 1)

    def commuted(self, order: Shape) -> Concat:
        return Concat(order[self.axis])


@from_onnx("Concat")
def read_concat(call: Call) -> Node:
    first = next(v for v in call.inputs if isinstance(v, Node))
    axis = call.axis(int(call.attributes.get("axis", 1)), len(first.shape))
    return concatenated(call, call.meeting(call.inputs), axis)


@from_torch_op("cat", "concat", "concatenate", "stack")
def read_torch_cat(call: Call) -> Node:
    values = call.meeting(call.attributes["tensors"])
    rank = next(len(v.shape) for v in values if isinstance(v, Node))
    if call.kind != "stack":
        return concatenated(call, values, call.axis(int(call.attributes["dim"]), rank))
    axis = call.axis(int(call.attributes["dim"]), rank + 1)
    return concatenated(call, [_lifted(v, axis) for v in values], axis)


def _lifted(value: Value, axis: int) -> Value:
    """The value with one more axis, of size one."""
    if isinstance(value, Node):
        return reshaped(value, (*value.shape[:axis], 1, *value.shape[axis:]))
    return value.unsqueeze(axis + 1)


def concatenated(call: Call, values: Sequence[Value], axis: int) -> Node:
    """Values and constants side by side; constants by padding what depends on the image and adding them there."""
    nodes = [v for v in values if isinstance(v, Node)]
    if len(nodes) == len(values):
        return apply(Concat(axis), *nodes) if len(nodes) > 1 else nodes[0]
    like = nodes[0].shape
    known = [v if isinstance(v, Node) else _like_an_image(call, v, len(like)) for v in values]
    if any((*v.shape[:axis], *v.shape[axis + 1 :]) != (*like[:axis], *like[axis + 1 :]) for v in known):
        call.refuse(f"shapes {', '.join(str(tuple(v.shape)) for v in known)} do not fit side by side")
    return _among_constants(known, axis)


def _like_an_image(call: Call, constant: Tensor, rank: int) -> Tensor:
    if constant.ndim != rank + call.batched:
        call.refuse(f"puts a constant of shape {tuple(constant.shape)} beside values with a batch axis")
    return call.per_image(constant, rank)


def _among_constants(values: Sequence[Value], axis: int) -> Node:
    """Each value padded with zeros to the whole length, all of them added, the constants added as a shift."""
    lengths = [v.shape[axis] for v in values]
    total, parts, shifts = sum(lengths), list[Node](), list[Tensor]()
    for i, (value, length) in enumerate(zip(values, lengths, strict=True)):
        before = sum(lengths[:i])
        widths = [(0, 0)] * len(value.shape)
        widths[axis] = (before, total - before - length)
        op = Pad(tuple(widths))
        if isinstance(value, Node):
            parts.append(apply(op, value))
        else:
            shifts.append(op.linear(value.unsqueeze(0))[0])
    node = apply(Add(), *parts) if len(parts) > 1 else parts[0]
    shift = torch.stack(shifts).sum(0)
    return apply(Affine(shift=shift), node) if bool((shift != 0).any()) else node


@to_onnx(Add)
def write_add(op: Add, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Add" if len(inputs) == 2 else "Sum", inputs, name=node.name)


@to_onnx(Concat)
def write_concat(op: Concat, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Concat", inputs, name=node.name, axis=op.axis + 1)
