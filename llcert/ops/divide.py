"""Quotients by constants, entry by entry: `x / 3` is not `x` times the nearest number to a third."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import LinearOp, Node, Shape, apply
from llcert.ops.affine import Affine
from llcert.ops.registry import OnnxBuilder, to_onnx


@dataclass(frozen=True)
class Divide(LinearOp):
    """`x / divisor`, broadcastable to the shape of x; no entry is zero."""

    divisor: Tensor
    is_scaled_permutation = True
    entrywise = True
    roundings = 6  # the quotient; or the reciprocal and the product, and four for a factor that a runtime folds into it

    def linear(self, x: Tensor) -> Tensor:
        return x / self.divisor

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Affine:
        """Coefficients are reciprocals, rounded once: among the four roundings of a coefficient (lemma 1)."""
        return Affine(entrywise(1 / self.divisor))

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return self.linear(y)


def quotient(node: Node, divisor: Tensor) -> Node:
    """`x / divisor`; a product where the reciprocals are exact, which is the same also where it is run.

    Raises ValueError where an entry or its reciprocal is no normal number of the value's format.
    """
    form = node.rounding
    if not bool(((divisor.abs() >= form.tiny) & (divisor.abs() <= 1 / form.tiny)).all()):
        raise ValueError("a divisor or its reciprocal is zero, subnormal or infinite")
    exact = bool((torch.frexp(divisor.detach().double()).mantissa.abs() == 0.5).all())
    return apply(Affine(scale=1 / divisor) if exact and not divisor.requires_grad else Divide(divisor), node)


@to_onnx(Divide)
def write_divide(op: Divide, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    return builder.add("Div", [*inputs, builder.constant(op.divisor)], name=node.name)
