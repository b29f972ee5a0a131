"""ReLU, ReLU-theta, ReLU6, hard tanh, and minima and maxima with constants: all `min(max(z, low), high)`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Activation, Shape
from llcert.region import Region


@dataclass(frozen=True)
class Clamp(Activation):
    """`min(max(z, low), high)`; ReLU is low 0 and no high, ReLU-theta (eq. 8) is low 0 and high theta.

    low, high: broadcastable to the shape of z, in its units; None for no bound. Where low > high the value is high.
    """

    low: Tensor | None = None
    high: Tensor | None = None

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        if self.low is not None:
            z = torch.maximum(z, self.low)
        return z if self.high is None else torch.minimum(z, self.high)

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

    def slope(self, z: Region) -> Tensor:
        return self.varying(z).to(z.centre.dtype)

    def secant(self, z: Region) -> Tensor:
        """From the centre: what lies past a bound only moves once it is back inside (METHOD, section 3)."""
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

    def global_slope(self, shape: Shape) -> Tensor:
        if self.low is None or self.high is None:
            return torch.ones(())
        return (self.high > self.low).to(self.high.dtype)


def relu() -> Clamp:
    """The plain ReLU."""
    return Clamp(low=torch.zeros(()))
