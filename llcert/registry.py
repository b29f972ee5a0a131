"""Where operators register how they are read from foreign graphs and written to ONNX; knows no operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import Node, Op, Shape

Value = Node | Tensor
"""A value in a foreign graph: a Node if it depends on the image, a Tensor if it is known."""

BATCH = 7919
"""Stands for the unknown batch size wherever a foreign graph computes with shapes: a prime no real dimension has."""


@dataclass(frozen=True)
class Call:
    """One operator call in a foreign graph.

    kind: `Conv`, or `conv2d` for `aten.conv2d.default`. where: how messages name it. version: ONNX opset, 0 for torch.
    inputs: positional inputs, None where left out (ONNX), empty for torch. attributes: ONNX attributes as plain Python
    values and tensors; for torch every argument by its name in the schema, defaults filled in.
    batched: whether foreign shapes carry a batch axis in front of ours. outputs: how many results are expected.
    """

    kind: str
    where: str
    version: int
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    batched: bool = True
    outputs: int = 1

    def refuse(self, reason: str) -> NoReturn:
        """Raises UnsupportedModel naming the operator; reason: what is wrong and what would help."""
        raise UnsupportedModel(f"{self.where}: {reason}")

    def node(self, index: int | str) -> Node:
        """The image-dependent input at a position (ONNX) or of a name (torch); refuses constants."""
        value = self._value(index)
        if not isinstance(value, Node):
            self.refuse(f"input {index} was expected to depend on the image")
        return value

    def constant(self, index: int | str) -> Tensor | None:
        """The known input at a position or of a name, None where left out; refuses what depends on the image."""
        value = self._value(index)
        if isinstance(value, Node):
            self.refuse(f"input {index} depends on the image; llcert needs it to be a constant")
        return value

    def required(self, index: int | str) -> Tensor:
        """Like `constant`, but must be there."""
        value = self.constant(index)
        if value is None:
            self.refuse(f"input {index} is missing")
        return value

    def integers(self, name: str, position: int | None = None) -> tuple[int, ...] | None:
        """A list of integers, from the attribute `name` (old opsets) or the input at `position` (newer ones)."""
        value = self.attributes.get(name)
        if value is None and position is not None:
            tensor = self.constant(position)
            value = None if tensor is None else tensor.flatten().tolist()
        if value is None:
            return None
        return tuple(int(v) for v in (value if isinstance(value, Sequence) else [value]))

    def axis(self, axis: int, rank: int) -> int:
        """A foreign axis as an axis of one image's value of `rank` dimensions; refuses the batch axis."""
        foreign = rank + self.batched
        if not -foreign <= axis < foreign:
            self.refuse(f"axis {axis} is out of range for a value of {foreign} dimensions")
        ours = axis % foreign - self.batched
        if ours < 0:
            self.refuse("works along the batch axis; a certificate looks at one image at a time")
        return ours

    def per_image(self, constant: Tensor, rank: int) -> Tensor:
        """A constant that meets a value of `rank` dimensions, without batch axis; refuses one value per batch row."""
        if self.batched and constant.ndim == rank + 1:
            alike = constant.shape[0] == 1 or constant.stride(0) == 0
            if not alike and not torch.equal(constant, constant[:1].expand_as(constant)):
                self.refuse(f"a constant of shape {tuple(constant.shape)} differs between images of a batch")
            return constant[0]
        if constant.ndim > rank + self.batched:
            self.refuse(f"a constant of shape {tuple(constant.shape)} has more dimensions than the value it meets")
        return constant

    def _value(self, index: int | str) -> Value | None:
        if isinstance(index, str):
            value = self.attributes.get(index)
            return torch.as_tensor(value) if isinstance(value, bool | int | float | list | tuple) else value
        return self.inputs[index] if index < len(self.inputs) else None


Importer = Callable[[Call], Node | tuple[Node, ...]]
F = TypeVar("F", bound=Callable[..., Any])

onnx_importers: dict[str, Importer] = {}
torch_importers: dict[str, Importer] = {}
exporters: dict[type[Op], Callable[..., str]] = {}


class OnnxBuilder(Protocol):
    """What an exporter may ask for while a file is written; frontend implements it."""

    def add(self, kind: str, inputs: Sequence[str], *, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        """Appends a node; returns the name of its first output, the others stay unused."""
        ...

    def constant(self, value: Tensor, *, name: str = "") -> str:
        """Appends an initialiser; returns its name."""
        ...

    def number(self, value: float) -> str:
        """Appends one number, in the floating-point type of the network, as an initialiser; returns its name."""
        ...


def from_onnx(*kinds: str) -> Callable[[F], F]:
    """Registers the importer of ONNX operator types: `Call -> Node`, or a tuple of Nodes for several outputs."""

    def register(importer: F) -> F:
        onnx_importers.update(dict.fromkeys(kinds, importer))
        return importer

    return register


def from_torch_op(*kinds: str) -> Callable[[F], F]:
    """Registers the importer of aten operators, by name without overload (`conv2d`), as `from_onnx` does."""

    def register(importer: F) -> F:
        torch_importers.update(dict.fromkeys(kinds, importer))
        return importer

    return register


def to_onnx(op: type[Op]) -> Callable[[F], F]:
    """Registers the exporter of an operator: `(op, builder, inputs: list of names, node) -> output name`."""

    def register(exporter: F) -> F:
        exporters[op] = exporter
        return exporter

    return register


def common_shape(*shapes: Sequence[int]) -> Shape:
    """The shape that all the given ones broadcast to; raises ValueError where there is none."""
    return tuple(int(n) for n in np.broadcast_shapes(*(tuple(s) for s in shapes)))


def batched_shape(shape: Shape) -> Tensor:
    """`[-1, *shape]`: a Reshape target that leaves the batch free."""
    return torch.tensor([-1, *shape], dtype=torch.int64)
