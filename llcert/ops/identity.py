"""Operators that hand a value on: identity, copies, dropout in inference, casts between floating-point types."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.ir import Node
from llcert.ops.head import Head
from llcert.ops.movement import Reshape
from llcert.registry import Call, from_onnx, from_torch_op


@from_torch_op("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "lift_fresh", "identity")
def read_torch_identity(call: Call) -> Node:
    return call.node("self")


@from_torch_op("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def read_torch_dropout(call: Call) -> Node | tuple[Node, ...]:
    if call.attributes["train"] and call.attributes["p"] != 0:
        call.refuse("is in training mode; export the model after .eval()")
    return (call.node("input"),) if call.kind == "native_dropout" else call.node("input")


@from_torch_op("to", "_to_copy", "type_as", "float", "double")
def read_torch_cast(call: Call) -> Node:
    like = call.attributes.get("other")
    dtype = like.dtype if isinstance(like, Tensor) else call.attributes.get("dtype")
    if dtype not in (None, torch.float32, torch.float64):
        call.refuse(f"casts a value of the image to {dtype}, which rounds it; remove the cast")
    return call.node("self")


@from_onnx("Identity")
def read_identity(call: Call) -> Node:
    return call.node(0)


@from_onnx("Dropout")
def read_dropout(call: Call) -> Node:
    training = call.constant(2)
    if training is not None and bool(training.any()):
        call.refuse("is in training mode; export the model after .eval()")
    if call.outputs > 1:
        call.refuse("its mask is used; export the model after .eval()")
    return call.node(0)


_FLOAT, _DOUBLE = 1, 11
ROUNDS = "casts a value of the image to another type than float32 or float64, which rounds it"


@from_onnx("Cast")
def read_cast(call: Call) -> Node:
    node = call.node(0)
    if call.attributes.get("to") not in (_FLOAT, _DOUBLE) and not _is_label(node):
        call.refuse(f"{ROUNDS}; remove the cast or export the model in float32")
    return node


def _is_label(node: Node) -> bool:
    """Whether a value is the class an ArgMax picked, maybe reshaped: a whole number already."""
    while isinstance(node.op, Reshape):
        (node,) = node.inputs
    return isinstance(node.op, Head) and node.op.kind == "ArgMax"


@from_onnx("CastLike")
def read_cast_like(call: Call) -> Node:
    like = call.inputs[1] if len(call.inputs) > 1 else None
    if isinstance(like, Tensor) and like.dtype not in (torch.float32, torch.float64):
        call.refuse(ROUNDS)
    return call.node(0)
