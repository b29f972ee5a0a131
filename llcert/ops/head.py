"""What classifiers put behind their logits; stripped by the importer, refused anywhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Node, Op, apply
from llcert.ops.movement import reshaped
from llcert.ops.registry import Call, from_onnx, from_torch_op


@dataclass(frozen=True)
class Head(Op):
    """A function of all logits that keeps their order: `Softmax`, `LogSoftmax`, or picks the largest: `ArgMax`."""

    kind: str

    @property
    def label(self) -> str:
        return self.kind

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        if self.kind == "ArgMax":
            return z.argmax(-1, keepdim=True)
        return torch.log_softmax(z, -1) if self.kind == "LogSoftmax" else torch.softmax(z, -1)


_JOINT_UNTIL = 12
"""Up to this opset Softmax normalises its axis together with all behind it."""


@from_onnx("Softmax", "LogSoftmax")
def read_softmax(call: Call) -> Node:
    node = call.node(0)
    rank = len(node.shape)
    joint = call.version <= _JOINT_UNTIL
    axis = call.axis(int(call.attributes.get("axis", 1 if joint else -1)), rank)
    together = set(range(axis, rank)) if joint else {axis}
    if any(n > 1 and i not in together for i, n in enumerate(node.shape)):
        call.refuse(f"works on one axis of a value of shape {node.shape}; only a final {call.kind} can be removed")
    return _behind_logits(call.kind, node)


def _behind_logits(kind: str, node: Node) -> Node:
    logits = reshaped(node, (math.prod(node.shape),))
    return reshaped(apply(Head(kind), logits), node.shape)


@from_torch_op("softmax", "log_softmax", "_softmax", "_log_softmax", "argmax")
def read_torch_head(call: Call) -> Node:
    node = call.node("self")
    if call.attributes["dim"] is None:
        call.refuse("works on all images of the batch at once; name the axis of the classes")
    axis = call.axis(int(call.attributes["dim"]), len(node.shape))
    if call.kind == "argmax":
        return _label(call, node, axis, keep=bool(call.attributes["keepdim"]))
    if math.prod(node.shape) != node.shape[axis]:
        call.refuse(f"works on one axis of a value of shape {node.shape}; only a final {call.kind} can be removed")
    return _behind_logits("LogSoftmax" if "log" in call.kind else "Softmax", node)


@from_onnx("ArgMax")
def read_arg_max(call: Call) -> Node:
    node = call.node(0)
    axis = call.axis(int(call.attributes.get("axis", 0)), len(node.shape))
    return _label(call, node, axis, keep=bool(call.attributes.get("keepdims", 1)))


def _label(call: Call, node: Node, axis: int, *, keep: bool) -> Node:
    if math.prod(node.shape) != node.shape[axis]:
        call.refuse(f"works on one axis of a value of shape {node.shape}; only a final ArgMax can be removed")
    label = apply(Head("ArgMax"), reshaped(node, (node.shape[axis],)))
    return reshaped(label, tuple(1 if i == axis else n for i, n in enumerate(node.shape) if keep or i != axis))


@from_onnx("ZipMap")
def read_zip_map(call: Call) -> Node:
    return call.node(0)
