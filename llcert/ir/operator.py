"""The interface of operators: values, linear maps and their adjoints, and what an evaluation of them rounds.

docs/method.md, sections 2 and 12.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.numerics.rounding import DOUBLE

Shape = tuple[int, ...]
"""The shape of one image's value, without the batch axis. Tensors are always `[batch, *shape]`."""


class Op(ABC):
    """An operation on batched values. Concrete operators are frozen dataclasses; tensors are their parameters."""

    trainable: tuple[str, ...] = ()
    """The fields whose tensors training may move, besides those that require gradients already."""

    @abstractmethod
    def __call__(self, *values: Tensor) -> Tensor:
        """The value of the operator, `[batch, *shape]`."""

    @property
    def label(self) -> str:
        """The name of the operator in reports."""
        return type(self).__name__

    def result_type(self, *dtypes: torch.dtype) -> torch.dtype:
        """The number format of the value, of those of its inputs; raises TypeError where these differ.

        An operator converts nothing: a value of another format comes from a Cast.
        """
        if len(set(dtypes)) != 1:
            raise TypeError(f"{self.label} of values in {', '.join(map(format_name, dtypes)) or 'no format'}")
        return dtypes[0]

    @property
    def roundings(self) -> int | None:
        """The largest number of roundings of an evaluation in any format on any runtime. None: not stated, no proof.

        Of a linear map or a join: each product `a_ij x_j`, relative to itself, and the offset, relative to
        `offset_size`, before all of them are added up in any order; 0 where coefficients are 1 and -1. Of an
        activation: its result; 0 where it selects one of its inputs or a constant.
        """
        return None

    @property
    def entrywise(self) -> bool:
        """Whether each output depends on the input in its place alone, and all tensors broadcast against the value."""
        return False

    def commuted(self, order: Shape) -> Op | None:
        """The operator that, in front of a transposition, equals this one behind it; None: there is none.

        `self(x_1^T, ...) = commuted(order)(x_1, ...)^T`, where axis i of `x^T` is axis `order[i]` of x. Tensors that
        are trained stay as they are.
        """
        return permuted(self, order) if self.entrywise else None

    @property
    def unstated(self) -> tuple[str, ...]:
        """The statements that a proof needs and that the author of the operator has not made, by name."""
        return ("roundings",) if self.roundings is None else ()

    def scratch(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Entries of temporary values, such as windows, in an evaluation of one image."""
        return 0

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by field name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same operator, its floating-point parameters on `device` in `dtype`; shared where they already are."""
        moved = {k: t.to(device, dtype if t.is_floating_point() else t.dtype) for k, t in self.tensors().items()}
        return dataclasses.replace(self, **moved) if moved else self  # type: ignore[type-var]


def permuted(op: Op, order: Shape, **fields: object) -> Op | None:
    """The operator in front of a transposition: its tensors transposed back, other fields as given (`Op.commuted`).

    None where a tensor that would change is trained.
    """
    inverse = sorted(range(len(order)), key=order.__getitem__)
    tensors = {name: tensor for name, tensor in op.tensors().items() if tensor.numel() != 1}
    if any(tensor.requires_grad for tensor in tensors.values()):
        return None
    tall = {n: t.reshape(*[1] * (len(order) - t.ndim), *t.shape).permute(inverse) for n, t in tensors.items()}
    fields = fields | tall
    return dataclasses.replace(op, **fields) if fields else op  # type: ignore[type-var]


@dataclass(frozen=True)
class Input(Op):
    """The image, in the shape and the number format the network wants."""

    shape: Shape
    dtype: torch.dtype = torch.float32

    def result_type(self, *dtypes: torch.dtype) -> torch.dtype:
        return self.dtype

    def __call__(self, *values: Tensor) -> Tensor:
        raise TypeError("the input has no operation; pass its value to evaluate()")


class LinearOp(Op):
    """An affine map of one value, `A x + b`.

    A concrete operator writes `linear` (without `b`), `transformed`, `roundings` and, where it has one, `offset`; box
    rule, row norms and adjoint follow. Overridden adjoints are tested against the derived one.
    """

    @property
    def copies(self) -> bool:
        """Whether every output is a copy of one of the inputs or a constant: nothing is computed, nothing rounds."""
        return False

    @property
    def is_scaled_permutation(self) -> bool:
        """Whether every row and every column of A has at most one nonzero entry, so that its norm is the largest one.

        So of permutations, scalings, padding with zeros and choices of different entries; not where entries are
        repeated, although nothing is summed there either.
        """
        return False

    @abstractmethod
    def linear(self, x: Tensor) -> Tensor:
        """`A x`, `[batch, *shape]`."""

    @abstractmethod
    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        """The map whose matrix is `entrywise(A)`, without offset; `entrywise(0) = 0`, as of the absolute value.

        Coefficients that are 1 because values are copied change as well: `number` is for them.
        """

    @property
    def offset(self) -> Tensor | None:
        """`b`, broadcastable to the output shape; None for zero."""
        return None

    def paths(self, x: Tensor) -> Tensor:
        """`P x`, P one where A has a coefficient other than zero; x: float64, `[batch, *input shape]`."""
        return self.transformed(nonzero).linear(x)

    def offset_size(self, like: Tensor) -> Tensor:
        """At least `|b|` and all that an evaluation adds up to get it, `[1, *shape]`; like: an input.

        `|b|` itself is right where the offset is stored and added as it is.
        """
        return self(like.new_zeros(1, *like.shape[1:])).abs()

    def intermediate_size(self, size: Tensor) -> Tensor | None:
        """Upper bounds of the absolute values that an evaluation meets on its way, `[batch, *any shape]`; size: of x.

        None where they are at most `|A| |x| + offset_size`: not where sums are scaled once they are there, or
        coefficients are computed. A proof compares them with the largest number of the format.
        """
        return None

    def __call__(self, *values: Tensor) -> Tensor:
        (x,) = values
        y, b = self.linear(x), self.offset
        if b is None:
            return y
        return y + (b.to(y.dtype) if y.dtype.itemsize == 2 else b)  # two bytes: training under autocast

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        """`A* y`, `[batch, *shape]`; shape: of one input image."""
        with torch.enable_grad():
            x = torch.zeros(y.shape[0], *shape, dtype=y.dtype, device=y.device, requires_grad=True)
            (result,) = torch.autograd.grad(self.linear(x), x, y, create_graph=y.requires_grad)
        return result

    def norm_bound(self, shape: Shape) -> float:
        """An upper bound of `||A||_2` over inputs of this shape, of the parameters as real numbers."""
        return self.magnitude_bound(shape)

    def magnitude_bound(self, shape: Shape) -> float:
        """An upper bound of `|| |A| ||_2`, and so of `||A||_2`, over inputs of this shape.

        The root of the largest row sum times the largest column sum of |A|, rounded up. Infinite where that is NaN.
        """
        magnitude = self.to("cpu", torch.float64).transformed(torch.abs)
        with torch.no_grad():
            rows = magnitude.linear(torch.ones(1, *shape, dtype=torch.float64))
            columns = magnitude.adjoint(torch.ones_like(rows), shape)
        if rows.numel() == 0 or columns.numel() == 0:
            return 0.0
        terms = max(rows.numel(), columns.numel()) + 8
        row, column = DOUBLE.above(float(rows.max()), terms), DOUBLE.above(float(columns.max()), terms)
        value = row if self.is_scaled_permutation else math.sqrt(row) * math.sqrt(column)
        return DOUBLE.above(value, 4) if value < math.inf else math.inf


def nonzero(coefficients: Tensor) -> Tensor:
    """1 where a coefficient is not zero, else 0, in float64: an entrywise change that counts coefficients."""
    return (coefficients != 0).to(torch.float64)


def number(entrywise: Callable[[Tensor], Tensor], value: float) -> float:
    """The entrywise change applied to one coefficient."""
    return float(entrywise(torch.tensor(value, dtype=torch.float64)))


def stated_roundings(op: Op) -> int:
    """The roundings that an operator's author states; raises UnsupportedModel where there is no such statement."""
    if op.roundings is None:
        raise UnsupportedModel(f"{op.label}: its roundings are not stated, so nothing can be proved of it")
    return op.roundings


class Join(Op):
    """A linear map of several values: every entry of each enters one output, with coefficient one."""

    @property
    def copies(self) -> bool:
        """Whether every output is one entry of one of the values: they stand side by side, and nothing rounds."""
        return False

    @abstractmethod
    def adjoints(self, y: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """The adjoint applied to `y`, one part for each input."""


def format_name(dtype: torch.dtype) -> str:
    """The name of a number format in messages and files: `float32`."""
    return str(dtype).removeprefix("torch.")
