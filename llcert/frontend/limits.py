"""How many entries an operator's results have, before they are computed, and how many a network may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx

from llcert.errors import UnsupportedModel
from llcert.frontend.rule_inputs import Array
from llcert.ir import LARGEST_TOGETHER, Node


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


_ELEMENTWISE: Final = _kinds(
    "Add Sub Mul Div Mod Pow Min Max Sum Mean Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Where "
    "BitShift PRelu Clip QuantizeLinear DequantizeLinear"
)
NO_LARGER: Final = _kinds(
    "Abs Cast CastLike Ceil Concat Constant Cos CumSum DepthToSpace Dropout Elu Erf Exp Flatten Floor "
    "HardSigmoid Identity IsInf IsNaN LeakyRelu Log LogSoftmax LpNormalization Neg Not Reciprocal "
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax "
    "Softplus SpaceToDepth Split Sqrt Squeeze Tanh TopK Transpose Trilu Unsqueeze ArgMax ArgMin NonZero"
)
"""Results no larger than their inputs together (or than a few numbers)."""


def entries_of_results(node: onnx.NodeProto, arrays: Sequence[Array | None]) -> float | None:
    """An upper bound on the entries of the results; None for an operator that is not computed."""
    known = [a for a in arrays if a is not None]
    if node.op_type in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(a.shape for a in known)))
    if node.op_type in NO_LARGER:
        return sum(a.size for a in known)
    rule = _SIZES.get(node.op_type)
    return None if rule is None else rule(node, known)


def _product_size(known: Sequence[Array]) -> float:
    """Of a matrix product, whichever of the two is transposed."""
    a, b = known[0], known[1]
    batch = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    return batch * max(a.shape[-2:], default=1) * max(b.shape[-2:], default=1)


def _padded_size(node: onnx.NodeProto, known: Sequence[Array]) -> float:
    own = next((a.ints for a in node.attribute if a.name == "pads"), None)
    pads = known[1].tolist() if own is None else own
    longest = max((abs(int(p)) for p in pads), default=0)
    return math.prod(n + 2 * longest for n in known[0].shape)


def _gathered_size(node: onnx.NodeProto, known: Sequence[Array]) -> float:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return known[0].size / max(known[0].shape[axis], 1) * known[1].size


def _range_size(_: onnx.NodeProto, known: Sequence[Array]) -> float:
    start, limit, delta = (float(a) for a in known)
    return max((limit - start) / delta, 0.0)


_SIZES: Final[Mapping[str, Callable[[onnx.NodeProto, Sequence[Array]], float]]] = MappingProxyType(
    {
        "ConstantOfShape": lambda _, k: math.prod(int(n) for n in k[0]),
        "Expand": lambda _, k: math.prod(np.broadcast_shapes(k[0].shape, tuple(int(n) for n in k[1]))),
        "Tile": lambda _, k: k[0].size * math.prod(int(n) for n in k[1]),
        "Range": _range_size,
        "Pad": _padded_size,
        "OneHot": lambda _, k: k[0].size * abs(float(np.ravel(k[1])[0])),
        "EyeLike": lambda _, k: k[0].size,
        "Gather": _gathered_size,
        "GatherElements": lambda _, k: k[1].size,
        "GatherND": lambda _, k: k[0].size * k[1].size,
        "MatMul": lambda _, k: _product_size(k),
        "Gemm": lambda _, k: _product_size(k),
    }
)


_GROWTH = 4
_INTEGER = 5
"""Entries of eight bytes that an integer of a list takes."""


@dataclass
class Budget:
    """What the nodes of a network hold together, counted while they are made, before any of them is computed.

    weights: entries of what the file or the module brings along.
    """

    weights: int
    spent: int = 0
    _counted: set[Node] = field(default_factory=set)

    @property
    def allowed(self) -> int:
        return LARGEST_TOGETHER + _GROWTH * self.weights

    def spend(self, results: Iterable[Node], where: str) -> None:
        """Counts new values and all that is new in front of them; raises UnsupportedModel where it is too much."""
        waiting = list(results)
        while waiting:
            node = waiting.pop()
            if node in self._counted:
                continue
            self._counted.add(node)
            waiting += node.inputs
            scratch = node.op.scratch([i.shape for i in node.inputs], node.shape)
            self.spent += _held(node)
            if self.spent + scratch > self.allowed:
                raise UnsupportedModel(
                    f"{where}: with its value of shape {node.shape} one image takes {self.spent + scratch:,} numbers, "
                    f"more than the {self.allowed:,} llcert takes for weights of this size; export the model for "
                    "smaller images, or with fewer channels"
                )


def _held(node: Node) -> int:
    """Entries of a value and of its operator's parameters."""
    lists = sum(len(v) for v in vars(node.op).values() if isinstance(v, tuple))
    return math.prod(node.shape) + sum(t.numel() for t in node.op.tensors().values()) + _INTEGER * lists
