"""Values of an ONNX graph that do not depend on the image: computed at once, within limits on their size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import LARGEST
from llcert.registry import BATCH

Array = npt.NDArray[Any]

_DEQUANTIZES = 19
"""The first opset whose DequantizeLinear the reference implementation knows; older ones mean the same."""

_SMALL = 2**22
_GROWTH = 4
"""A computed constant holds at most this many times the entries of all initialisers (at least `_SMALL`, at most
`LARGEST`); all of them together as many times that."""


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


_ELEMENTWISE: Final = _kinds(
    "Add Sub Mul Div Mod Pow Min Max Sum Mean Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Where "
    "BitShift PRelu Clip QuantizeLinear DequantizeLinear"
)
_NO_LARGER: Final = _kinds(
    "Abs Cast CastLike Ceil Concat Constant Cos CumSum DepthToSpace Dropout Elu Erf Exp Flatten Floor "
    "HardSigmoid Identity IsInf IsNaN LeakyRelu Log LogSoftmax LpNormalization Neg Not Reciprocal "
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax "
    "Softplus SpaceToDepth Split Sqrt Squeeze Tanh TopK Transpose Trilu Unsqueeze ArgMax ArgMin NonZero"
)
"""Results no larger than their inputs together (or than a few numbers)."""


@dataclass
class Folder:
    """Computes nodes whose inputs are all known; remembers how much it has computed.

    held: the entries of all initialisers of the file, which is what decides how large a computed constant may be.
    """

    opset: int
    held: int
    spent: int = field(default=0)

    @property
    def allowed(self) -> int:
        """The most entries one computed constant may have."""
        return min(max(_GROWTH * self.held, _SMALL), LARGEST)

    def compute(self, node: onnx.NodeProto, inputs: Sequence[Tensor | None], where: str) -> tuple[Tensor, ...]:
        """Every output of one node; raises UnsupportedModel where it cannot or should not be computed."""
        arrays = [None if t is None else t.numpy() for t in inputs]
        if node.op_type in ("ConstantOfShape", "Expand"):
            arrays = _one_image(node.op_type, arrays)
        self._check_size(node, arrays, where)
        outputs = _evaluate(node, arrays, self.opset, where)
        self.spent += sum(o.size for o in outputs)
        if self.spent > _GROWTH * self.allowed:
            raise UnsupportedModel(f"{where}: the constants of the model need more memory than llcert allows")
        return tuple(tensor(o, where) for o in outputs)

    def _check_size(self, node: onnx.NodeProto, arrays: Sequence[Array | None], where: str) -> None:
        try:
            size = _output_size(node, arrays)
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
            raise UnsupportedModel(f"{where}: its constant inputs do not fit it ({_line(error)})") from None
        if size is None:
            raise UnsupportedModel(f"{where}: llcert does not compute constants with this operator")
        if not size <= self.allowed:
            raise UnsupportedModel(f"{where}: computes a constant of {size} entries, more than llcert allows")


def tensor(array: Array, where: str) -> Tensor:
    """A numpy array as a tensor that owns its memory; narrow floats become float32, unsigned integers int64."""
    array = np.asarray(array)
    if (array.dtype.kind == "f" and array.dtype.itemsize >= 4) or array.dtype.kind in "bi":
        kept = array
    elif array.dtype.kind == "u":
        kept = array.astype(np.int64)
    elif array.dtype == np.float16 or array.dtype.name.startswith(("bfloat", "float8")):
        kept = array.astype(np.float32)
    elif array.dtype.name in ("int4", "uint4", "int2", "uint2"):
        kept = array.astype(np.int64)
    else:
        raise UnsupportedModel(f"{where}: constants of type {array.dtype} are not numbers llcert can use")
    return torch.from_numpy(np.array(kept, order="C").reshape(array.shape)).clone()


def _one_image(kind: str, arrays: list[Array | None]) -> list[Array | None]:
    """Shapes of constants that are repeated for every image of a batch, for one image: they broadcast."""
    position = 0 if kind == "ConstantOfShape" else 1
    shape = arrays[position] if position < len(arrays) else None
    if shape is not None and shape.dtype.kind == "i":
        arrays[position] = np.where(shape == BATCH, np.ones_like(shape), shape)
    return arrays


def _evaluate(node: onnx.NodeProto, arrays: Sequence[Array | None], opset: int, where: str) -> list[Array]:
    """The node's outputs by the reference implementation, as a model of its own."""
    given = {name: array for name, array in zip(node.input, arrays, strict=True) if array is not None}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()
    ]
    if node.op_type == "DequantizeLinear":
        opset = max(opset, _DEQUANTIZES)
    outputs = [name for name in node.output if name]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    model = helper.make_model(
        helper.make_graph([node], "constant", infos, results), opset_imports=[helper.make_opsetid("", opset)]
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            values = ReferenceEvaluator(model).run(None, given)
        except Exception as error:  # the reference implementation raises whatever numpy or its own code does
            raise UnsupportedModel(f"{where}: cannot be computed from its constants ({_line(error)})") from None
    return [np.asarray(v) for v in values]


def _output_size(node: onnx.NodeProto, arrays: Sequence[Array | None]) -> float | None:
    """An upper bound on the entries of the results; None for an operator that is not computed."""
    known = [a for a in arrays if a is not None]
    if node.op_type in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(a.shape for a in known)))
    if node.op_type in _NO_LARGER:
        return sum(a.size for a in known)
    rule = _SIZES.get(node.op_type)
    return None if rule is None else rule(node, known)


def _product_size(known: Sequence[Array]) -> float:
    """Of a matrix product, whichever of the two is transposed."""
    a, b = known[0], known[1]
    batch = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    return batch * max(a.shape[-2:], default=1) * max(b.shape[-2:], default=1)


def _padded_size(node: onnx.NodeProto, known: Sequence[Array]) -> float:
    attributes = _attributes(node)
    pads = attributes["pads"] if "pads" in attributes else known[1].tolist()
    longest = max((abs(int(p)) for p in pads), default=0)
    return math.prod(n + 2 * longest for n in known[0].shape)


def _gathered_size(node: onnx.NodeProto, known: Sequence[Array]) -> float:
    axis = int(_attributes(node).get("axis", 0))
    return known[0].size / max(known[0].shape[axis], 1) * known[1].size


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


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


def _line(error: Exception) -> str:
    """The first line of a foreign error message, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def initialiser(proto: onnx.TensorProto, source: str) -> Tensor:
    """The value of an initialiser whose bytes are in the model; refuses NaN, and infinities in more than one entry."""
    where = f"{source}: initialiser {proto.name!r}"
    declared = math.prod(proto.dims)
    if any(d < 0 for d in proto.dims) or declared > 8 * LARGEST:
        raise UnsupportedModel(f"{where}: its shape {list(proto.dims)} is not one a file can hold")
    try:
        array = numpy_helper.to_array(proto)
    except Exception as error:  # broken bytes raise whatever numpy does
        raise UnsupportedModel(f"{where}: its data does not fit its type and shape ({_line(error)})") from None
    value = tensor(array, where)
    if value.is_floating_point() and (bool(value.isnan().any()) or (value.numel() > 1 and bool(value.isinf().any()))):
        raise UnsupportedModel(f"{where}: holds NaN or infinite values; repair or retrain the model")
    return value
