"""Operators that hand a value on: identity, copies, dropout in inference."""

from __future__ import annotations

from llcert.ir import Node
from llcert.ops.registry import Call, from_onnx, from_torch_op


@from_torch_op("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "lift_fresh", "identity")
def read_torch_identity(call: Call) -> Node:
    return call.node("self")


@from_torch_op("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def read_torch_dropout(call: Call) -> Node | tuple[Node, ...]:
    if call.attributes["train"] and call.attributes["p"] != 0:
        call.refuse("is in training mode; export the model after .eval()")
    return (call.node("input"),) if call.kind == "native_dropout" else call.node("input")


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
