"""Leaky ReLU, parametric ReLU and the absolute value: the identity above zero, another slope below (docs/method.md,
section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.domain.relaxation import Piecewise, Relaxation, Zone
from llcert.ir import Activation, Node, Shape, apply
from llcert.ops.affine import channelwise
from llcert.ops.registry import Call, OnnxBuilder, common_shape, from_onnx, from_torch_op, to_onnx


@dataclass(frozen=True)
class Leaky(Activation):
    """`z` where z >= 0, `slope_below * z` elsewhere; -1 gives the absolute value.

    slope_below: broadcastable to the shape of z, dimensionless, any sign.
    """

    slope_below: Tensor
    entrywise = True
    roundings = 1
    relative = True
    slope_roundings = 4

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        return torch.where(z >= 0, z, self.slope_below * z)

    @property
    def label(self) -> str:
        return "Abs" if bool((self.slope_below == -1).all()) else "LeakyReLU"

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Not monotone for a negative slope: the knot at zero counts where the box contains it."""
        at_lower, at_upper = self(lower), self(upper)
        least, most = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
        knot_inside = (lower < 0) & (upper > 0)
        return torch.where(knot_inside, least.clamp(max=0), least), torch.where(knot_inside, most.clamp(min=0), most)

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        """Constant only below zero, and only where the slope there is zero."""
        return (torch.where(self.slope_below == 0, z.upper, torch.full_like(z.upper, torch.inf)),)

    def slope(self, z: Region) -> Tensor:
        below, zero = self.slope_below.abs().expand_as(z.centre), torch.zeros_like(z.centre)
        right = torch.where(z.upper <= 0, zero, 1.0)
        left = torch.where(z.lower >= 0, zero, below)
        return torch.maximum(left, right)

    def secant(self, z: Region) -> Tensor:
        """The slope at the centre, and the chords to the two ends of the box; on each piece chords are monotone.

        Chords are raised, so that none is rounded to 1 that is above.
        """
        value, widest = self(z.centre), self.slope(z)
        at_centre = torch.where(z.centre < 0, self.slope_below.abs(), torch.ones_like(value))
        at_centre = torch.where(z.centre == 0, widest, at_centre)
        steepest = at_centre
        for end in (z.lower, z.upper):
            chord = (self(end) - value).abs() / (end - z.centre).abs() * (1 + 8 * torch.finfo(value.dtype).eps)
            steepest = torch.maximum(steepest, torch.where(end == z.centre, at_centre, chord))
        return torch.where(steepest <= widest, steepest, widest)

    def relaxations(self, zone: Zone) -> tuple[Relaxation, ...]:
        return (Relaxation(Piecewise(self, (torch.zeros(()),), (self.slope_below, torch.ones(()))), zone),)

    def described(self, shape: Shape) -> tuple[str, dict[str, Tensor]]:
        return "leaky", {"below": self.slope_below.expand(shape)}

    def global_slope(self, shape: Shape) -> Tensor:
        return self.slope_below.abs().clamp(min=1)

    def least_slope(self, shape: Shape) -> Tensor:
        return self.slope_below.clamp(max=1)


@from_onnx("LeakyRelu")
def read_leaky_relu(call: Call) -> Node:
    return apply(Leaky(torch.tensor(float(call.attributes["alpha"]))), call.node(0))


@from_onnx("PRelu")
def read_parametric_relu(call: Call) -> Node:
    node = call.node(0)
    slope = call.per_image(call.required(1), len(node.shape))
    if common_shape(node.shape, slope.shape) != node.shape:
        call.refuse(f"slopes of shape {tuple(slope.shape)} do not fit a value of shape {node.shape}")
    return apply(Leaky(slope), node)


@from_onnx("Abs")
def read_absolute(call: Call) -> Node:
    return apply(Leaky(torch.tensor(-1.0)), call.node(0))


@from_torch_op("leaky_relu", "abs", "absolute")
def read_torch_leaky(call: Call) -> Node:
    slope = call.constant("negative_slope")
    return apply(Leaky(torch.tensor(-1.0) if slope is None else slope), call.node("self"))


@from_torch_op("prelu", "_prelu_kernel")
def read_torch_parametric_relu(call: Call) -> Node:
    """One slope for each channel, the first axis of an image's value."""
    node, slope = call.node("self"), call.required("weight")
    spatial = len(node.shape) - 1
    if slope.ndim == 1 and slope.numel() > 1 and spatial > 0:
        slope = channelwise(slope, spatial)
    elif slope.ndim > 1:
        slope = call.per_image(slope, len(node.shape))
    return apply(Leaky(slope), node)


@to_onnx(Leaky)
def write_leaky(op: Leaky, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    slope = op.slope_below
    if slope.ndim == 0 and bool(slope == -1):
        return builder.add("Abs", inputs, name=node.name)
    if slope.ndim == 0 and bool(slope.float() == slope):
        return builder.add("LeakyRelu", inputs, name=node.name, alpha=float(slope))
    return builder.add("PRelu", [*inputs, builder.constant(slope)], name=node.name)
