"""What is said of sizes for any batch is what the ONNX reference computes for each of several batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from llcert.frontend.constants import Constant, SymbolicSizes, settled
from llcert.frontend.symbols import moved
from llcert.ir.batch_size import BatchSize, DependsOnBatch

BATCHES = (1, 2, 3, 7, 64)
INT64 = np.dtype(np.int64)


def sizes(*entries: int | BatchSize) -> SymbolicSizes:
    """Whole numbers, some of which are multiples of the batch size."""
    array = np.empty(len(entries), object)
    array[:] = entries
    found = settled(array, INT64)
    assert isinstance(found, SymbolicSizes)
    return found


def known(*entries: int) -> NDArray[np.int64]:
    return np.array(entries, INT64)


def at(constant: Constant, batch: int) -> NDArray[np.generic]:
    """A constant for one batch."""
    if not isinstance(constant, SymbolicSizes):
        assert isinstance(constant, np.ndarray)
        return constant
    numbers = [e.factor * batch if isinstance(e, BatchSize) else e for e in constant.entries.ravel().tolist()]
    return np.array(numbers, constant.dtype).reshape(constant.entries.shape)


def reference(node: onnx.NodeProto, inputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """The outputs of a node by the reference implementation of ONNX."""
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(node.input, inputs, strict=True)
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "g", declared, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return list(ReferenceEvaluator(model).run(None, dict(zip(node.input, inputs, strict=True))))


N, TWICE = BatchSize(), BatchSize(2)
SHAPE = sizes(N, 3, 8, 8)

FOLLOWED: dict[str, tuple[str, list[Constant], dict[str, object]]] = {
    "the other axes": ("Slice", [SHAPE, known(1), known(4)], {}),
    "the batch alone": ("Gather", [SHAPE, np.array(0, INT64)], {"axis": 0}),
    "several": ("Gather", [SHAPE, known(2, 0, 1)], {"axis": 0}),
    "beside a constant": ("Concat", [sizes(N), known(-1, 5)], {"axis": 0}),
    "an axis more": ("Unsqueeze", [sizes(N, 2), known(0)], {}),
    "an axis less": ("Squeeze", [sizes(N), known(0)], {}),
    "reshaped": ("Reshape", [SHAPE, known(2, 2)], {}),
    "as it is": ("Identity", [SHAPE], {}),
    "in parts": ("Split", [SHAPE], {"axis": 0, "outputs": 2}),
    "doubled": ("Mul", [sizes(N, 3), known(2, 2)], {}),
    "halved": ("Div", [sizes(TWICE, 8), known(2, 2)], {}),
    "over the batch": ("Div", [sizes(TWICE, N), sizes(N, N)], {}),
    "twice": ("Add", [sizes(N), sizes(TWICE)], {}),
    "with nothing added": ("Add", [sizes(N, 4), known(0, 3)], {}),
    "its own taken off": ("Sub", [sizes(TWICE, N), sizes(N, N)], {}),
    "more than none": ("Greater", [sizes(N, 4), known(0, 9)], {}),
    "equal to itself": ("Equal", [sizes(N, TWICE), sizes(N, N)], {}),
    "as float32": ("Cast", [sizes(N, 3)], {"to": TensorProto.FLOAT}),
}

UNKNOWN: dict[str, tuple[str, list[Constant], dict[str, object]]] = {
    "one more": ("Add", [sizes(N), known(1)], {}),
    "halves": ("Div", [sizes(N), known(2)], {}),
    "negative": ("Mul", [sizes(N), known(-1)], {}),
    "equal to two": ("Equal", [sizes(N), known(2)], {}),
    "more than two": ("Greater", [sizes(N), known(2)], {}),
    "its square": ("Mul", [sizes(N), sizes(N)], {}),
    "a chosen entry": ("Gather", [SHAPE, sizes(N)], {"axis": 0}),
    "overflowing": ("Mul", [sizes(BatchSize(2**30)), known(2**30)], {}),
    "as int8": ("Cast", [sizes(N)], {"to": TensorProto.INT8}),
    "too exact for float32": ("Cast", [sizes(BatchSize(2**20))], {"to": TensorProto.FLOAT}),
}


def _node(kind: str, inputs: Sequence[Constant], attributes: dict[str, object]) -> onnx.NodeProto:
    own = dict(attributes)
    outputs = [f"y{i}" for i in range(int(str(own.pop("outputs", 1))))]
    return helper.make_node(kind, [f"x{i}" for i in range(len(inputs))], outputs, **own)


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_holds_for_every_batch_is_computed(name: str) -> None:
    kind, inputs, attributes = FOLLOWED[name]
    node = _node(kind, inputs, attributes)
    found = moved(node, inputs, "here")
    for batch in BATCHES:
        expected = reference(node, [at(v, batch) for v in inputs])
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            mine = at(own, batch)
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            assert np.array_equal(mine, other), batch


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_differs_between_batches_is_not(name: str) -> None:
    kind, inputs, attributes = UNKNOWN[name]
    with pytest.raises((DependsOnBatch, ValueError)):
        moved(_node(kind, inputs, attributes), inputs, "here")
