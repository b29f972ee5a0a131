"""The interface of activations: boxes, gaps, slopes and relaxations (docs/method.md, sections 3, 4 and 9)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.domain.region import Region
from llcert.domain.relaxation import Relaxation, Zone
from llcert.ir.operator import LinearOp, Op, Shape


@dataclass(frozen=True)
class LoopTransform:
    """`phi(z) - phi(z') = C (z - z') + F eta` for some eta with `||eta|| <= ||z - z'||` (docs/method.md, section 6).

    linear: C. remainder: F.
    """

    linear: LinearOp
    remainder: LinearOp


class Activation(Op):
    """A nonlinearity of one value. What it does not state has a default that is right for every function, or none."""

    @property
    def relative(self) -> bool | None:
        """Whether its roundings are relative to the result, so that a zero is exact (True), or to the larger of the
        result and one (False). None: not stated."""
        return None

    @property
    def increasing(self) -> bool:
        """Whether no output falls where inputs grow."""
        return False

    @property
    def slope_roundings(self) -> int | None:
        """How many roundings, relative to themselves, computed slopes and secants are below the true ones at most.

        Those that are computed as 0 or 1 are not below at all. None: not stated.
        """
        return None

    @property
    def unstated(self) -> tuple[str, ...]:
        bounded = self.increasing or type(self).box is not Activation.box
        accurate = self.roundings == 0 or self.relative is not None
        stated = {
            "increasing or box": bounded,
            "roundings": self.roundings is not None,
            "relative": accurate,
            "slope_roundings": self.slope_roundings is not None,
        }
        return tuple(name for name, is_stated in stated.items() if not is_stated)

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Outer bounds of the output over the box of the input, as accurate as the function is.

        Its values at both ends where it is increasing; else nothing is known until the operator says more.
        """
        if self.increasing:
            return self(lower), self(upper)
        unknown = torch.full_like(self(lower), torch.inf)
        return -unknown, unknown

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        """Distances of each output from being constant over `z`, each `[batch, *output shape]`, pre-activation units.

        An output is constant as soon as one gap is <= 0 (eq. 3, 9); the sparsity loss (eq. 12) is their positive part.
        None by default: every output may vary.
        """
        return ()

    @torch.no_grad()
    def varying(self, z: Region) -> Tensor:
        """Outputs that may vary over `z`, boolean `[batch, *output shape]`: a superset; NaN varies."""
        gaps = self.gaps(z)
        if not gaps:
            return torch.ones_like(self(z.centre), dtype=torch.bool)
        constant = gaps[0] <= 0
        for gap in gaps[1:]:
            constant = constant | (gap <= 0)
        return ~constant

    @abstractmethod
    def slope(self, z: Region) -> Tensor:
        """Upper bounds `s`, `[batch, *input shape]`, with `||phi(a) - phi(b)|| <= ||s * (a - b)||` for a, b in `z`."""

    def secant(self, z: Region) -> Tensor:
        """Like `slope`, but for `b = z.centre` alone (docs/method.md, section 4); never larger than `slope`."""
        return self.slope(z)

    def summed(self, z: Region) -> Tensor | None:
        """Sizes of what a deployed evaluation adds up and takes off again to get each output, `[batch, *output shape]`.

        Zero where that is exact. None: `roundings` says all.
        """
        return None

    def described(self, shape: Shape) -> tuple[str, dict[str, Tensor]] | None:
        """Its kind and arrays in a certificate file (docs/certificate.md), in row-major order.

        shape: of its input. None: a certificate has no words for it.
        """
        return None

    @property
    def relaxable(self) -> bool:
        """Whether a backward pass goes through it."""
        return type(self).relaxations is not Activation.relaxations

    def relaxations(self, zone: Zone) -> tuple[Relaxation, ...] | None:
        """The steps a backward pass takes through it over `zone`, the first applied first; None: it cannot."""
        return None

    def loop_transforms(self, shape: Shape, like: Tensor) -> tuple[LoopTransform, ...] | None:
        """Loop transformations that make it up, first applied first, all but the last nonexpansive, for LipLT
        (docs/method.md, section 6). None: it has those of its least and steepest slopes, or none.

        shape: of its input. like: has the format and the place of coefficients.
        """
        return None

    @abstractmethod
    def global_slope(self, shape: Shape) -> Tensor:
        """Upper bound of `slope` over all inputs, broadcastable to the input shape."""

    def least_slope(self, shape: Shape) -> Tensor | None:
        """Lower bound, exact, of the slope of every chord of an entrywise function, broadcastable to the input shape.

        None where outputs depend on several inputs, or nothing is known.
        """
        return torch.zeros(()) if self.entrywise and self.increasing else None
