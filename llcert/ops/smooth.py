"""Sigmoid and tanh: increasing, steepest at zero, flatter the farther away (docs/method.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.ir import Activation, Node, Shape, apply
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx


class _Bell(Activation):
    """An increasing function whose derivative falls with the distance from zero."""

    steepest = 1.0
    entrywise = True
    roundings = 16
    relative = False
    increasing = True
    slope_roundings = 16

    def derivative(self, z: Tensor) -> Tensor:
        """The derivative, in a form that rounds no worse than the function."""
        raise TypeError("an S-shaped activation must define its derivative")

    def slope(self, z: Region) -> Tensor:
        """The derivative at the point of the box nearest to zero."""
        nearest = torch.minimum(torch.maximum(torch.zeros_like(z.centre), z.lower), z.upper)
        return self.derivative(nearest)

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.tensor(self.steepest)


@dataclass(frozen=True)
class Sigmoid(_Bell):
    """`1 / (1 + exp(-z))`."""

    steepest = 0.25

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.sigmoid(values[0])

    def derivative(self, z: Tensor) -> Tensor:
        return _positive(torch.sigmoid(z) * torch.sigmoid(-z))


@dataclass(frozen=True)
class Tanh(_Bell):
    """Hyperbolic tangent."""

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.tanh(values[0])

    def derivative(self, z: Tensor) -> Tensor:
        return _positive(4 * torch.sigmoid(2 * z) * torch.sigmoid(-2 * z))


def _positive(slopes: Tensor) -> Tensor:
    """Slopes that are nowhere zero: the smallest normal number in place of those that have underflowed."""
    return slopes.clamp(min=torch.finfo(slopes.dtype).tiny)


@from_onnx("Sigmoid")
def read_sigmoid(call: Call) -> Node:
    return apply(Sigmoid(), call.node(0))


@from_onnx("Tanh")
def read_tanh(call: Call) -> Node:
    return apply(Tanh(), call.node(0))


@from_torch_op("sigmoid")
def read_torch_sigmoid(call: Call) -> Node:
    return apply(Sigmoid(), call.node("self"))


@from_torch_op("tanh")
def read_torch_tanh(call: Call) -> Node:
    return apply(Tanh(), call.node("self"))


@to_onnx(Sigmoid)
def write_sigmoid(op: Sigmoid, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Sigmoid", inputs, name=node.name)


@to_onnx(Tanh)
def write_tanh(op: Tanh, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Tanh", inputs, name=node.name)
