"""Elementwise affine maps: normalisation, scaling, added constants, batch norm in inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp, LoopTransform, Node, apply
from llcert.numerics.rounding import DOUBLE
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx
from llcert.ops.windows import foreign, image


@dataclass(frozen=True)
class Affine(LinearOp):
    """`scale * x + shift`, both broadcastable to the shape of x; None for one and for zero."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    is_scaled_permutation = True
    entrywise = True
    trainable = ("scale", "shift")

    @property
    def roundings(self) -> int:
        """0 where only signs change and float32 holds the shift. Else six: the product, or the rounding of the shift to
        the format, and five for a factor that a runtime computes itself."""
        signs = self.scale is None or bool((self.scale.abs() == 1).all())
        held = self.shift is None or bool((self.shift.float() == self.shift).all())
        return 0 if signs and held else 6

    def linear(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x * self.scale

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Affine:
        if self.scale is not None:
            return Affine(entrywise(self.scale))
        one = entrywise(torch.ones(()))
        return Affine(None if float(one) == 1 else one)

    @property
    def offset(self) -> Tensor | None:
        return self.shift

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.linear(y)


def slopes_between(least: Tensor, most: Tensor) -> LoopTransform:
    """The loop transformation of an entrywise function whose chords have slopes between these, entry by entry: C their
    mean, F half of their distance, rounded up (docs/method.md, Proposition 6.2)."""
    centre = (least + most) / 2
    half = torch.maximum(most - centre, centre - least)
    exact = ((half == 0) | (half == 0.5) | (half == 1)) & (centre + half == most) & (centre - half == least)
    above = torch.nextafter(half, torch.full_like(half, torch.inf))
    return LoopTransform(Affine(centre), Affine(torch.where(exact, half, above)))


@dataclass(frozen=True)
class BatchNorm(LinearOp):
    """Batch normalisation with frozen statistics: affine, one weight, bias, mean and variance a channel (first axis).

    spatial: the number of axes behind the channels. eps: added to the variance, as the exporter says.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    eps: float = 1e-5
    spatial: int = 2
    is_scaled_permutation = True
    roundings = 6  # of the factor four (by a reciprocal), the difference from the mean, the product
    trainable = ("weight", "bias")

    @property
    def scale(self) -> Tensor:
        """The factor of each channel, `[channels, 1, ...]`."""
        return channelwise(self.weight / torch.sqrt(self.variance + self.eps), self.spatial)

    def linear(self, x: Tensor) -> Tensor:
        return x * self.scale

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Affine:
        return Affine(entrywise(self.scale))

    def offset_size(self, like: Tensor) -> Tensor:
        """The mean is taken off before it is scaled."""
        return channelwise(self.bias.abs() + (self.mean * self.scale.flatten()).abs(), self.spatial)[None]

    def intermediate_size(self, size: Tensor) -> Tensor:
        """The difference from the mean, and the factor, which is computed where the network is run."""
        return size + channelwise(self.mean.abs(), self.spatial) + self.scale.abs()

    def __call__(self, *values: Tensor) -> Tensor:
        (x,) = values
        return (x - channelwise(self.mean, self.spatial)) * self.scale + channelwise(self.bias, self.spatial)

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.linear(y)


def channelwise(values: Tensor, spatial: int) -> Tensor:
    """One value a channel, shaped to broadcast over `spatial` axes behind it."""
    return values.reshape(-1, *[1] * spatial)


@to_onnx(Affine)
def write_affine(op: Affine, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    (value,) = inputs
    if op.scale is not None:
        value = builder.add("Mul", [value, builder.constant(op.scale)], name=node.name)
    if op.shift is not None:
        value = builder.add("Add", [value, builder.constant(op.shift)], name=node.name)
    return value if op.tensors() else builder.add("Identity", inputs, name=node.name)


@to_onnx(BatchNorm)
def write_batch_norm(op: BatchNorm, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    # the file holds eps in single precision: what that loses goes into the variance
    eps = float(torch.tensor(op.eps, dtype=torch.float32))
    variance = (op.variance + op.eps) - eps if op.variance.dtype == torch.float64 else op.variance
    constants = [builder.constant(t) for t in (op.weight, op.bias, op.mean, variance)]
    return builder.add("BatchNormalization", [*inputs, *constants], name=node.name, epsilon=eps)


@from_onnx("BatchNormalization")
def read_batch_norm(call: Call) -> Node:
    if call.attributes.get("training_mode", 0) or call.outputs > 1:
        call.refuse("is in training mode; export the model after .eval()")
    if call.attributes.get("spatial", 1) != 1:
        call.refuse("normalises every entry on its own (spatial=0), which newer opsets cannot say; export again")
    node = image(call)
    weight, bias, mean, variance = (call.required(i).flatten() for i in (1, 2, 3, 4))
    if any(t.dtype != node.dtype for t in (weight, bias, mean, variance)):
        call.refuse("its statistics are not in the number format of its input; put a Cast in front")
    return foreign(call, normalised(call, node, weight, bias, mean, variance, float(call.attributes["epsilon"])))


def normalised(
    call: Call, node: Node, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> Node:
    """Batch normalisation. Where variance and eps cancelled, eps's own rounding would decide the factor."""
    if not (eps >= 0 and bool((variance >= 0).all())):
        call.refuse(f"has a variance or an epsilon ({eps:g}) below zero; the statistics of the model are broken")
    if not bool((variance.double() + eps >= node.rounding.tiny).all()):
        call.refuse("has a variance of zero, and an epsilon of zero; the statistics of the model are broken")
    factor = weight.double() / torch.sqrt(variance.double() + eps)
    if bool(((factor.abs() < DOUBLE.tiny) & (weight != 0)).any()):
        call.refuse("has a factor that is too small for float64, though its weight is not zero")
    return apply(BatchNorm(weight, bias, mean, variance, eps, len(node.shape) - 1), node)


@from_torch_op("batch_norm", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training")
def read_torch_batch_norm(call: Call) -> Node | tuple[Node, ...]:
    node = call.node("input")
    mean, variance = call.constant("running_mean"), call.constant("running_var")
    if call.attributes.get("training") or mean is None or variance is None:
        call.refuse("normalises by the statistics of the batch; keep running statistics and call .eval()")
    weight, bias = call.constant("weight"), call.constant("bias")
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    eps = float(call.attributes["epsilon" if call.kind == "cudnn_batch_norm" else "eps"])
    result = normalised(call, node, weight, bias, mean, variance, eps)
    return result if call.kind == "batch_norm" else (result,)
