"""ReLU, ReLU-theta, ReLU6, hard tanh, and minima and maxima with constants: all
`min(max(z, low), high)` (docs/method.md, section 4)."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.domain.relaxation import Piecewise, Relaxation, Zone
from llcert.ir import Activation, Node, Shape, apply
from llcert.numerics.gradients import maximum, minimum
from llcert.ops.affine import Affine
from llcert.ops.divide import quotient
from llcert.ops.registry import Call, OnnxBuilder, from_onnx, from_torch_op, to_onnx


class Spelling(enum.Enum):
    """How a network takes an upper bound: sums round, a minimum does not."""

    MINIMUM = "min(z, t)"
    REFLECTED = "t - relu(t - z)"
    EXCESS = "z - relu(z - t)"


@dataclass(frozen=True)
class Clamp(Activation):
    """`min(max(z, low), high)`; ReLU is low 0 and no high, ReLU-theta (eq. 8) is low 0 and high theta.

    low, high: broadcastable to the shape of z, in its units; None for no bound. Where low > high the value is high.
    spelling: how the deployed network computes the upper bound.
    """

    low: Tensor | None = None
    high: Tensor | None = None
    spelling: Spelling = Spelling.MINIMUM
    entrywise = True
    roundings = 0
    increasing = True
    slope_roundings = 4

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        if self.low is not None:
            z = maximum(z, self.low)
        return z if self.high is None else minimum(z, self.high)

    @property
    def is_relu(self) -> bool:
        """Whether the lower bound is zero everywhere: ReLU or ReLU-theta."""
        return self.low is not None and bool((self.low == 0).all())

    @property
    def label(self) -> str:
        if self.is_relu:
            return "ReLU" if self.high is None else "ReLU-theta"
        return "Clamp"

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        below = () if self.low is None else (z.upper - self.low,)
        above = () if self.high is None else (self.high - z.lower,)
        return below + above

    def varying(self, z: Region) -> Tensor:
        """Where the gaps say so, except that bounds which leave no room make a constant of everything."""
        varying = super().varying(z)
        return varying if self.low is None or self.high is None else varying & ~(self.high <= self.low)

    def summed(self, z: Region) -> Tensor | None:
        """Both spellings are exact at a lower bound of zero; one above the upper bound, the other below it."""
        if self.spelling is Spelling.MINIMUM or self.high is None:
            return None
        low = torch.full_like(self.high, -torch.inf) if self.low is None else self.low
        size = torch.maximum(z.lower.abs(), z.upper.abs()) + self.high.abs() + low.abs().nan_to_num(posinf=0.0)
        exact = (low == 0) & (z.upper <= 0) & (self.high >= 0)
        exact = exact | (z.lower >= self.high if self.spelling is Spelling.REFLECTED else z.upper <= self.high)
        return torch.where(exact, 0.0, size)

    def slope(self, z: Region) -> Tensor:
        return self.varying(z).to(z.centre.dtype)

    def secant(self, z: Region) -> Tensor:
        """The steepest chord from the centre to a point of the box (docs/method.md, Proposition 4.3)."""
        c, one = z.centre, torch.ones_like(z.centre)
        s = one
        if self.low is not None:
            top = z.upper if self.high is None else torch.minimum(z.upper, self.high)
            s = torch.where(c < self.low, (top - self.low) / (top - c), s)
        if self.high is not None:
            bottom = z.lower if self.low is None else torch.maximum(z.lower, self.low)
            s = torch.where(c > self.high, (self.high - bottom) / (c - bottom), s)
        s = torch.where((s >= 0) & (s <= 1), s, one)
        return torch.where(self.varying(z), s, torch.zeros_like(s))

    def relaxations(self, zone: Zone) -> tuple[Relaxation, ...]:
        knots, slopes = list[Tensor](), [torch.ones((), dtype=zone.centre.dtype, device=zone.centre.device)]
        zero = torch.zeros_like(slopes[0])
        if self.low is not None:
            low = self.low.to(zero)
            knots.append(low if self.high is None else torch.minimum(low, self.high.to(zero)))
            slopes.insert(0, zero)
        if self.high is not None:
            knots.append(self.high.to(zero))
            slopes.append(zero)
        return (Relaxation(Piecewise(self, tuple(knots), tuple(slopes)), zone),)

    def described(self, shape: Shape) -> tuple[str, dict[str, Tensor]]:
        low, high = bounds(self.low, self.high, shape)
        return "clamp", {"low": torch.minimum(low, high), "high": high}  # the upper bound wins

    def global_slope(self, shape: Shape) -> Tensor:
        if self.low is None or self.high is None:
            return torch.ones(())
        return (self.high > self.low).to(self.high.dtype)


def bounds(low: Tensor | None, high: Tensor | None, shape: Shape) -> tuple[Tensor, Tensor]:
    """Both bounds in full, infinite where there is none, on a processor."""
    return (
        torch.full(shape, -torch.inf) if low is None else low.cpu().expand(shape),
        torch.full(shape, torch.inf) if high is None else high.cpu().expand(shape),
    )


def relu() -> Clamp:
    """The plain ReLU."""
    return Clamp(low=torch.zeros(()))


@from_onnx("Relu")
def read_relu(call: Call) -> Node:
    return apply(relu(), call.node(0))


@from_torch_op("relu", "relu6")
def read_torch_relu(call: Call) -> Node:
    return apply(relu() if call.kind == "relu" else Clamp(torch.tensor(0.0), torch.tensor(6.0)), call.node("self"))


@from_onnx("Clip")
def read_clip(call: Call) -> Node:
    node = call.node(0)
    low, high = _bound(call, "min", 1), _bound(call, "max", 2)
    if low is not None and bool(low <= torch.finfo(node.dtype).min):
        low = None
    if high is not None and bool(high >= torch.finfo(node.dtype).max):
        high = None
    return apply(Clamp(low, high), node) if low is not None or high is not None else node


def _bound(call: Call, name: str, position: int) -> Tensor | None:
    """A bound of Clip, from its attribute or its input; None where it is left out."""
    value = call.attributes.get(name)
    bound = call.constant(position) if value is None else torch.tensor(float(value))
    if bound is None:
        return None
    if bound.numel() != 1:
        call.refuse(f"its {name} has shape {tuple(bound.shape)}; one number is allowed")
    return bound.reshape(())


@from_onnx("HardSigmoid")
def read_hard_sigmoid(call: Call) -> Node:
    slope, middle = (torch.tensor(float(call.attributes[name])) for name in ("alpha", "beta"))
    return apply(Clamp(torch.tensor(0.0), torch.tensor(1.0)), apply(Affine(slope, middle), call.node(0)))


@from_torch_op("hardsigmoid")
def read_torch_hard_sigmoid(call: Call) -> Node:
    shifted = apply(Affine(shift=torch.tensor(3.0)), call.node("self"))
    return quotient(apply(Clamp(torch.tensor(0.0), torch.tensor(6.0)), shifted), torch.tensor(6.0))


@to_onnx(Clamp)
def write_clamp(op: Clamp, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    (value,) = inputs
    low, high = op.low, op.high
    if low is not None and high is not None and low.ndim == high.ndim == 0 and bool(low <= high):
        return builder.add("Clip", [value, builder.constant(low), builder.constant(high)], name=node.name)
    if low is not None and low.ndim == 0 and bool(low == 0):
        value = builder.add("Relu", [value], name=node.name)
    elif low is not None:
        value = builder.add("Max", [value, builder.constant(low)], name=node.name)
    if high is not None:
        value = builder.add("Min", [value, builder.constant(high)], name=node.name)
    return value if op.tensors() else builder.add("Identity", inputs, name=node.name)
