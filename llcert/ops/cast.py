"""Values that change their number format: exact into a wider one, a rounding into a narrower one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Node, apply, format_name
from llcert.numerics.rounding import FORMATS
from llcert.ops.head import Head
from llcert.ops.movement import Movement, Reshape
from llcert.ops.registry import Call, ForEveryImage, OnnxBuilder, from_onnx, from_torch_op, to_onnx


@dataclass(frozen=True)
class Cast(Movement):
    """The value in another number format: the identity in real numbers, rounded to nearest where it is run."""

    dtype: torch.dtype
    is_scaled_permutation = True
    entrywise = True

    def result_type(self, *dtypes: torch.dtype) -> torch.dtype:
        return self.dtype

    def linear(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return y

    @property
    def label(self) -> str:
        return f"Cast({format_name(self.dtype)})"


def cast(node: Node, dtype: torch.dtype) -> Node:
    """The value in a number format; the node itself where it has it."""
    return node if node.dtype == dtype else apply(Cast(dtype), node)


@from_torch_op("to", "_to_copy", "type_as", "float", "double")
def read_torch_cast(call: Call) -> Node:
    node, like = call.node("self"), call.attributes.get("other")
    dtype = like.dtype if isinstance(like, Node | Tensor) else call.attributes.get("dtype")
    named = {"float": torch.float32, "double": torch.float64}.get(call.kind, dtype)
    return node if named is None else _into(call, node, named)


_ELEMENTS = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64}
_ELEMENTS |= {9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}


@from_onnx("Cast")
def read_cast(call: Call) -> Node:
    to = call.attributes.get("to")
    return _into(call, call.node(0), _ELEMENTS.get(int(to or 0), f"ONNX type {to}"))


@from_onnx("CastLike")
def read_cast_like(call: Call) -> Node:
    node, like = call.node(0), call.inputs[1] if len(call.inputs) > 1 else None
    like = like.image if isinstance(like, ForEveryImage) else like
    if not isinstance(like, Node | Tensor):
        call.refuse("names no value of the image, and no constant, whose type to take")
    return _into(call, node, like.dtype)


def _into(call: Call, node: Node, dtype: torch.dtype | str) -> Node:
    classes = _labelled(node)
    if classes and isinstance(dtype, torch.dtype):
        if classes - 1 > _LARGEST_WHOLE.get(dtype, 0):
            call.refuse(f"casts a label of {classes} classes to {format_name(dtype)}, which does not tell them apart")
        return node
    if not isinstance(dtype, torch.dtype) or dtype not in FORMATS:
        name = dtype if isinstance(dtype, str) else format_name(dtype)
        call.refuse(
            f"casts a value of the image to {name}, whose arithmetic llcert does not model; keep values that depend on "
            "the image in float32 or float64 (constants may have any type)"
        )
    return cast(node, dtype)


_LARGEST_WHOLE = {torch.uint8: 2**8 - 1, torch.int8: 2**7 - 1, torch.int16: 2**15 - 1, torch.int32: 2**31 - 1}
_LARGEST_WHOLE |= {torch.int64: 2**63 - 1, torch.float16: 2**11, torch.bfloat16: 2**8, torch.float32: 2**24}
_LARGEST_WHOLE |= {torch.float64: 2**53}
"""Up to which whole number a format holds all of them. A label keeps its meaning in such, other values do not."""


def _labelled(node: Node) -> int:
    """The number of classes of which a value is the one that an ArgMax picked, maybe reshaped; 0 for other values."""
    while isinstance(node.op, Reshape):
        (node,) = node.inputs
    return node.inputs[0].shape[0] if isinstance(node.op, Head) and node.op.kind == "ArgMax" else 0


@to_onnx(Cast)
def write_cast(op: Cast, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    element = next(e for e, dtype in _ELEMENTS.items() if dtype == op.dtype)
    return builder.add("Cast", inputs, name=node.name, to=element)
