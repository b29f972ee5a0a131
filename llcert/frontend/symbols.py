"""What does not depend on the image, but on how many of them a batch has: sizes, and constants with a batch axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx

from llcert.frontend.attributes import attributes
from llcert.frontend.constants import Constant, Repeated, SymbolicSizes, settled, sizes_of
from llcert.frontend.rule_inputs import Array
from llcert.frontend.rules import symbolic_rule_for
from llcert.ir.batch_size import BATCH, BatchSize, DependsOnBatch

Plain = Callable[[onnx.NodeProto, Sequence[Array]], Array]
"""The first output of a node on arrays."""

_ENTRY_BY_ENTRY: Final = frozenset(
    ("Add", "Sub", "Mul", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Neg", "Abs")
)
_MOVING: Final = ("Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze")
"""Operators that hand sizes on as they are."""
_TYPES: Final = (np.int32, np.int64, np.float32, np.float64)
"""Types that sizes may be cast to. What is computed with them stays in int64: a narrower type may wrap around, and a
floating-point one rounds."""
_EXACT: Final = 2**8
"""Multiples of the batch size up to which float32 holds them, for any batch that is run; other numbers likewise."""
_LARGEST: Final = 2**31
"""Numbers and multiples of the batch size from here on might leave the range of int64 on their way."""


def of_every_image(node: onnx.NodeProto, inputs: Sequence[Constant | None], where: str, plain: Plain) -> Constant:
    """The output of a node on constants with a batch axis: computed for one image, entry by entry.

    Raises ValueError where it is none that works entry by entry.
    """
    images = [v.image for v in inputs if isinstance(v, Repeated)]
    rank = max(image.ndim for image in images)
    if node.op_type == "Shape":
        own = attributes(node, where)
        return sizes_of([BATCH, *images[0].shape[1:]][own.get("start", 0) : own.get("end")])
    arrays = [v.image if isinstance(v, Repeated) else v for v in inputs]
    known = [a for a in arrays if isinstance(a, np.ndarray) and meets(a, rank)]
    if node.op_type not in (*_ENTRY_BY_ENTRY, "Cast", "Identity") or len(known) < len(inputs):
        raise ValueError(
            "a constant that every image of a batch has may be added to others or to values of the image, multiplied, "
            "cast, or put beside a value of the image; nothing else"
        )
    return Repeated(plain(node, known))


def filled(node: onnx.NodeProto, inputs: Sequence[Constant | None], plain: Plain) -> Repeated | None:
    """The constant that ConstantOfShape or Expand makes as long as the batch; None for other nodes.

    Raises DependsOnBatch where another axis than the first would depend on the batch, or that of the constant meets it.
    """
    *values, shape = inputs
    if node.op_type not in ("ConstantOfShape", "Expand") or not isinstance(shape, SymbolicSizes):
        return None
    first, *others = shape.entries.ravel().tolist()
    known = [v for v in values if isinstance(v, np.ndarray) and meets(v, len(others) + 1)]
    if not isinstance(first, BatchSize) or first != BATCH or len(known) < len(values):
        raise DependsOnBatch
    return Repeated(plain(node, [*known, np.array([1, *others], np.int64)]))


def moved(node: onnx.NodeProto, inputs: Sequence[Constant | None], where: str) -> tuple[Constant, ...]:
    """The outputs of a node that moves, compares or multiplies sizes. Raises DependsOnBatch for any other."""
    (dtype,) = {v.dtype for v in inputs if isinstance(v, SymbolicSizes)}
    if node.op_type == "Cast":
        return (_cast(_entries(inputs[0], mixed=False), np.dtype(_type(node, where))),)
    rule = symbolic_rule_for(node.op_type)
    if rule is None or (dtype != np.int64 and node.op_type not in _MOVING):
        raise DependsOnBatch
    mixed = node.op_type in (*_ENTRY_BY_ENTRY, "Concat", "Where")
    arrays = [_entries(v, mixed=mixed) for v in inputs]
    outputs = [np.asarray(o) for o in rule(own_attributes(node, where), arrays)]
    if node.op_type not in _MOVING and any(_is_large(e) for o in (*arrays, *outputs) for e in _numbers(o)):
        raise DependsOnBatch
    return tuple(settled(o, dtype) if o.dtype == object else o for o in outputs)


def _numbers(array: Array | None) -> list[Any]:
    return [] if array is None or array.dtype.kind not in "Oiu" else array.ravel().tolist()


def _whole(number: Any) -> int:
    """A number that a cast does not round. Raises DependsOnBatch for a fraction beside the batch size."""
    if number != int(number):
        raise DependsOnBatch
    return int(number)


def _factor(number: Any) -> float:
    return abs(number.factor if isinstance(number, BatchSize) else number)


def _is_large(number: object) -> bool:
    return abs(number.factor if isinstance(number, BatchSize) else int(number)) >= _LARGEST  # type: ignore[call-overload]


def own_attributes(node: onnx.NodeProto, where: str) -> dict[str, Any]:
    """The attributes of a node as rules want them."""
    return {"num_outputs": len(node.output), **attributes(node, where)}


def meets(array: Array, rank: int) -> bool:
    """Whether a constant can meet one of `rank` axes, the first of them the batch, without touching that one."""
    return array.ndim < rank or (array.ndim == rank and array.shape[0] == 1)


def _entries(value: Constant | None, *, mixed: bool) -> Array | None:
    if isinstance(value, SymbolicSizes):
        return value.entries
    assert not isinstance(value, Repeated)
    return value.astype(object) if mixed and value is not None else value


def _type(node: onnx.NodeProto, where: str) -> np.dtype[np.generic]:
    return onnx.helper.tensor_dtype_to_np_dtype(attributes(node, where)["to"])


def _cast(entries: Array | None, dtype: np.dtype[np.generic]) -> Constant:
    """Multiples of the batch size stay what they are, in types that hold them."""
    if entries is None or dtype not in _TYPES:
        raise DependsOnBatch
    numbers = entries.ravel().tolist()
    if np.dtype(dtype).kind == "f" and any(_factor(e) > _EXACT for e in numbers):
        raise DependsOnBatch
    changed = np.empty(entries.size, object)
    changed[:] = [e if isinstance(e, BatchSize) else _whole(e) for e in numbers]
    return settled(changed.reshape(entries.shape), dtype)
