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
from llcert.ir.batch_size import BATCH, BatchSize, DependsOnBatch, Size

Value = Node | Tensor
"""A value in a foreign graph: a Node if it depends on the image, a Tensor if it is known."""


@dataclass(frozen=True)
class Sizes:
    """Whole numbers in row-major order, some of which depend on how many images a batch has."""

    entries: tuple[Size, ...]


@dataclass(frozen=True)
class ForEveryImage:
    """A known value with a batch axis along which it is repeated. image: of one image, `[1, *shape]`."""

    image: Tensor


Given = Value | Sizes | ForEveryImage
"""What an operator of a foreign graph may be given."""


@dataclass(frozen=True)
class Call:
    """One operator call in a foreign graph.

    kind: `Conv`, or `conv2d` for `aten.conv2d.default`. where: how messages name it. version: ONNX opset, 0 for torch.
    inputs: positional inputs, None where left out (ONNX), empty for torch. attributes: ONNX attributes as plain Python
    values and tensors; for torch every argument by its name in the schema, defaults filled in.
    batched: whether foreign shapes carry a batch axis in front of ours. batch: the number of images that is baked into
    literal sizes; where the graph leaves it free, a batch of one may be. outputs: how many results are expected.
    """

    kind: str
    where: str
    version: int
    inputs: tuple[Given | None, ...]
    attributes: Mapping[str, Any]
    batched: bool = True
    batch: int = 1
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
        """The known input at a position or of a name, None where left out; refuses what depends on image or batch."""
        value = self._value(index)
        if isinstance(value, Node):
            self.refuse(f"input {index} depends on the image; llcert needs it to be a constant")
        if isinstance(value, Sizes | ForEveryImage):
            self.refuse(f"input {index} {DependsOnBatch()}")
        return value

    def required(self, index: int | str) -> Tensor:
        """Like `constant`, but must be there."""
        value = self.constant(index)
        if value is None:
            self.refuse(f"input {index} is missing")
        return value

    def sizes(self, name: str, position: int | None = None) -> tuple[Size, ...] | None:
        """A list of sizes, from the attribute `name` (old opsets) or the input at `position` (newer ones)."""
        value = self.attributes.get(name)
        if value is None and position is not None:
            value = self._value(position)
        if value is None:
            return None
        if isinstance(value, Sizes):
            return value.entries
        if isinstance(value, Node | ForEveryImage):
            self.refuse(f"its {name} is no list of constants")
        listed = value.flatten().tolist() if isinstance(value, Tensor) else value
        listed = listed if isinstance(listed, Sequence) else [listed]
        return tuple(v if isinstance(v, BatchSize) else int(v) for v in listed)

    def integers(self, name: str, position: int | None = None) -> tuple[int, ...] | None:
        """The same where no number may depend on the batch."""
        found = self.sizes(name, position)
        if found is None:
            return None
        if any(isinstance(v, BatchSize) for v in found):
            self.refuse(f"its {name} {DependsOnBatch()}")
        return tuple(v for v in found if isinstance(v, int))

    def is_batch(self, size: Size) -> bool:
        """Whether a size is that of the batch axis."""
        return size == BATCH if isinstance(size, BatchSize) else size == self.batch

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
            rows = constant.shape[0]
            if rows != 1 and (rows != self.batch or not torch.equal(constant, constant[:1].expand_as(constant))):
                self.refuse(f"a constant of shape {tuple(constant.shape)} differs between images of a batch")
            return constant[0]
        if constant.ndim > rank + self.batched:
            self.refuse(f"a constant of shape {tuple(constant.shape)} has more dimensions than the value it meets")
        return constant

    def meeting(self, values: Sequence[Given | None]) -> list[Value]:
        """Values that meet entry by entry or side by side, those for every image with a batch axis of one.

        Refuses where one was left out, and batch axes that would meet other axes.
        """
        found: list[Value] = []
        ranks = {len(v.shape) + self.batched for v in values if isinstance(v, Node)}
        for value in values:
            if value is None:
                self.refuse("an input is missing")
            if isinstance(value, Sizes) or (isinstance(value, ForEveryImage) and ranks != {value.image.ndim}):
                self.refuse(f"an input {DependsOnBatch()}")
            found.append(value.image if isinstance(value, ForEveryImage) else value)
        return found

    def _value(self, index: int | str) -> Given | None:
        if isinstance(index, str):
            value = self.attributes.get(index)
            if isinstance(value, BatchSize):
                return Sizes((value,))
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
        """Appends one number, in the format of the value being written, as an initialiser; returns its name."""
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
