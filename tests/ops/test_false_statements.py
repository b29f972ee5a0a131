"""Operators that state what is not so: each is told by the measurement of its statement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import measured
import pytest
import torch
from drawing import Draw
from torch import Tensor

from llcert.domain.region import Region
from llcert.ir import Activation, Join, LinearOp, Shape
from llcert.ops import Affine, BatchNorm, Clamp, Leaky, Linear, Reduce, SumPool

normal = Draw(0).normal


@dataclass(frozen=True)
class WithoutProducts(Linear):
    roundings = 0


@dataclass(frozen=True)
class Permuting(Linear):
    is_scaled_permutation = True


@dataclass(frozen=True)
class Copying(Reduce):
    copies = True


@dataclass(frozen=True)
class Unscaled(SumPool):
    """A kernel that multiplies by a factor, and by the rounded inverse of another, and says that it does not."""

    roundings = 0


@dataclass(frozen=True)
class StoredOffset(BatchNorm):
    """The mean is taken off before it is scaled, and so is not stored as an offset."""

    offset_size = LinearOp.offset_size


@dataclass(frozen=True)
class Unchanged(Affine):
    def transformed(self, entrywise: object) -> Affine:
        return replace(self, shift=None)


@dataclass(frozen=True)
class Identity(LinearOp):
    """Right for the absolute value, the square and the count, not for what sends 1 elsewhere."""

    roundings = 0
    copies = True
    is_scaled_permutation = True

    def linear(self, x: Tensor) -> Tensor:
        return x

    def transformed(self, entrywise: object) -> LinearOp:
        return self


@dataclass(frozen=True)
class Spectral(LinearOp):
    """A circular convolution by transforms: errors belong to the largest output, not to each."""

    kernel: Tensor
    roundings = 6

    def linear(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(self.kernel), x.shape[-1])

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        return replace(self, kernel=entrywise(self.kernel))


@dataclass(frozen=True)
class Neighbours(Affine):
    """The difference of neighbours, which works in more places than one."""

    def __call__(self, *values: Tensor) -> Tensor:
        return values[0] - values[0].roll(1, -1)


def rounds(op: LinearOp, shape: Shape) -> None:
    measured.linear_map_rounds_as_stated(op, shape)


ONES, MEANS = torch.ones(3, dtype=torch.float64), 1e4 * normal(3)

LINEAR: dict[str, tuple[Callable[[LinearOp, Shape], None], LinearOp, Shape]] = {
    "products": (rounds, WithoutProducts(normal(3, 5)), (5,)),
    "products and a bias": (rounds, WithoutProducts(normal(3, 5), normal(3)), (5,)),
    "copies": (rounds, Copying((0,), 0.3), (4, 3)),
    "average": (rounds, Unscaled((3,), (1,), 0.3), (2, 6)),
    "offset": (rounds, StoredOffset(ONES, MEANS, MEANS, ONES - 1e-5, spatial=0), (3,)),
    "transform": (rounds, Spectral(torch.logspace(0, -9, 32, dtype=torch.float64)), (32,)),
    "copies by coefficients": (measured.entries_move_as_stated, Copying((0,)), (4, 3)),
    "scaled permutation": (measured.entries_move_as_stated, Permuting(normal(3, 5)), (5,)),
    "coefficients": (measured.coefficients_change_as_stated, Unchanged(normal(4)), (4,)),
    "coefficients of one": (measured.coefficients_change_as_stated, Identity(), (4,)),
    "entrywise": (measured.entries_stay_apart_as_stated, Neighbours(), (3, 4)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_maps(name: str) -> None:
    measure, op, shape = LINEAR[name]
    with pytest.raises(AssertionError):
        measure(op, shape)


@dataclass(frozen=True)
class Mean(Join):
    roundings = 0

    def __call__(self, *values: Tensor) -> Tensor:
        return (values[0] + values[1] + values[2]) / 3

    def adjoints(self, y: Tensor, shapes: object) -> tuple[Tensor, ...]:
        return (y / 3,) * 3


@dataclass(frozen=True)
class SideBySide(Join):
    roundings = 0
    copies = True

    def __call__(self, *values: Tensor) -> Tensor:
        return values[0] + values[1] + values[2]

    def adjoints(self, y: Tensor, shapes: object) -> tuple[Tensor, ...]:
        return (y,) * 3


@pytest.mark.parametrize("op", [Mean(), SideBySide()])
def test_joins(op: Join) -> None:
    with pytest.raises(AssertionError):
        measured.join_rounds_as_stated(op, [(4, 3)] * 3)


class Stated(Activation):
    """Statements that are right for a function that is computed well."""

    increasing = True
    roundings = 4
    relative = True
    slope_roundings = 4

    def slope(self, z: Region) -> Tensor:
        return torch.ones_like(z.centre)

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class Saturation(Stated):
    """Small results are as inaccurate as one."""

    def __call__(self, *values: Tensor) -> Tensor:
        return 1 - torch.exp(-values[0].clamp(min=0))


@dataclass(frozen=True)
class NaiveSoftplus(Stated):
    """Overflows where its result does not."""

    roundings = 16
    relative = False

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.log(1 + torch.exp(values[0]))


@dataclass(frozen=True)
class Selecting(Leaky):
    roundings = 0


@dataclass(frozen=True)
class Bent(Leaky):
    increasing = True


@dataclass(frozen=True)
class Exact(Clamp):
    slope_roundings = 0


@dataclass(frozen=True)
class Ordinary(Leaky):
    """Chords that are rounded to 1, which is meant exactly."""

    def secant(self, z: Region) -> Tensor:
        ends = torch.stack([(self(e) - self(z.centre)) / (e - z.centre) for e in (z.lower, z.upper)])
        return ends.nan_to_num(1.0).amax(0)


ACTIVATIONS: dict[str, tuple[Callable[[Activation, Shape], None], Activation]] = {
    "relative": (measured.activation_rounds_as_stated, Saturation()),
    "overflow": (measured.activation_rounds_as_stated, NaiveSoftplus()),
    "selects": (measured.activation_rounds_as_stated, Selecting(torch.tensor(0.3))),
    "increases": (measured.activation_increases_as_stated, Bent(torch.tensor(-0.3))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    measure, op = ACTIVATIONS[name]
    with pytest.raises(AssertionError):
        measure(op, (4, 3))


def ends(centre: float, lower: float, upper: float) -> Region:
    return Region(*(torch.full((1, 3), v, dtype=torch.float64) for v in (centre, lower, upper)), torch.ones(1))


@pytest.mark.parametrize(
    ("op", "region"),
    [(Exact(torch.tensor(0.0)), ends(-0.3, -0.7, 0.4)), (Ordinary(torch.tensor(1.5)), ends(1.0, -1e-9, 1.0))],
)
def test_slopes(op: Activation, region: Region) -> None:
    with pytest.raises(AssertionError):
        measured.slopes_round_as_stated(op, [region])
