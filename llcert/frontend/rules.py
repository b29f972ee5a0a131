"""Operators whose results on constants are the same in every runtime, to the last bit: data movement, whole numbers in
their own width, and single operations that IEEE 754 defines. Entries that depend on the batch size move along."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import helper

from llcert.ir.batch_size import Size

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]
Rule = Callable[[Attributes, Inputs], Sequence[Array]]
"""From attributes, `num_outputs` among them, and inputs to outputs.

Raises ValueError, IndexError, TypeError or ArithmeticError where they do not fit together, or where runtimes differ.
Arrays of BatchSize and int have the dtype object.
"""


def rule_for(kind: str, dtypes: Sequence[np.dtype[Any]]) -> Rule | None:
    """The rule of an operator on inputs of these types, None where there is none."""
    if kind in _MOVING:
        return _MOVING[kind]
    exact = all(d.kind in "biuO" or d in (np.float32, np.float64) for d in dtypes)
    if kind in _SINGLE_OPERATIONS and exact:
        return _SINGLE_OPERATIONS[kind]
    whole = all(d.kind in "biuO" for d in dtypes)
    return _WHOLE_NUMBERS.get(kind) if whole else None


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """The array in another type; raises ValueError where runtimes differ: out of range, or less exact than float32."""
    if dtype.kind == "b":
        return np.asarray(x != 0)
    with np.errstate(all="ignore"):
        if dtype.kind in "iu" or _is_small_integer(dtype):
            return _to_integers(x, dtype)
        result = x.astype(dtype)
        wide = dtype in (np.float32, np.float64)
        if not wide and not np.array_equal(result.astype(np.float64), x.astype(np.float64), equal_nan=True):
            raise ValueError(f"rounds constants to {dtype}")
    return result


def _to_integers(x: Array, dtype: np.dtype[Any]) -> Array:
    if x.dtype.kind in "biu" and dtype.kind in "iu":
        return x.astype(dtype)  # wraps around
    wide = np.trunc(x.astype(np.float64))
    result = wide.astype(np.int64 if dtype.kind != "u" else np.uint64) if np.isfinite(wide).all() else wide
    narrow = result.astype(dtype)
    if not np.array_equal(narrow.astype(np.float64), wide) or bool((np.abs(wide) >= 2.0**63).any()):
        raise ValueError(f"casts numbers that {dtype} cannot hold")
    return narrow


def _is_small_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.name in ("int2", "uint2", "int4", "uint4")


def _input(inputs: Inputs, position: int) -> Array:
    value = inputs[position] if position < len(inputs) else None
    if value is None:
        raise ValueError(f"input {position} is missing")
    return value


def _list(attributes: Attributes, inputs: Inputs, name: str, position: int) -> list[int] | None:
    """Whole numbers from an attribute (old opsets) or an input (newer ones)."""
    given = attributes.get(name)
    if given is None and position < len(inputs):
        array = inputs[position]
        given = None if array is None else array.ravel().tolist()
    if given is None:
        return None
    return [operator.index(n) for n in (given if isinstance(given, Sequence) else [given])]


def _cast(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (cast(_input(inputs, 0), np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"]))),)


def _cast_like(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (cast(_input(inputs, 0), _input(inputs, 1).dtype),)


def _constant(attributes: Attributes, _: Inputs) -> Sequence[Array]:
    if "value" in attributes:
        return (attributes["value"],)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    name = next(n for n in attributes if n.startswith("value"))
    return (np.array(attributes[name], kinds[name]),)


def _dropout(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    training = inputs[2] if len(inputs) > 2 else None
    if training is not None and bool(training.any()):
        raise ValueError("is random in training mode; export the model after .eval()")
    return (_input(inputs, 0),)


def _reshape(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, shape = _input(inputs, 0), _list(attributes, inputs, "shape", 1) or []
    if not attributes.get("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    if shape.count(-1) > 1 or min(shape, default=0) < -1:
        raise ValueError(f"no shape: {shape}")
    return (x.reshape(shape),)


def _flatten(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x = _input(inputs, 0)
    axis = attributes.get("axis", 1)
    axis = axis if axis == x.ndim else _axis(axis, x.ndim)
    return (x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])),)


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def _transpose(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (_input(inputs, 0).transpose(attributes.get("perm")),)


def _squeeze(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    axes = _list(attributes, inputs, "axes", 1)
    return (_input(inputs, 0).squeeze(tuple(axes) if axes else None),)


def _unsqueeze(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.expand_dims(_input(inputs, 0), tuple(_list(attributes, inputs, "axes", 1) or ())),)


def _concat(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    arrays = [_input(inputs, i) for i in range(len(inputs))]
    _same_type(arrays)
    return (np.concatenate(arrays, attributes["axis"]),)


def _same_type(arrays: Sequence[Array]) -> None:
    if len({a.dtype for a in arrays}) > 1:
        raise ValueError(f"types {', '.join(str(a.dtype) for a in arrays)} differ")


def _slice(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, names = _input(inputs, 0), ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (_list(attributes, inputs, name, i) for i, name in enumerate(names, start=1))
    if starts is None or ends is None:
        raise ValueError("no starts or no ends")
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, [1] * len(starts) if steps is None else steps, strict=True):
        ours = _axis(axis, x.ndim)
        x = x.take(_taken(start, end, step, x.shape[ours]), ours)
    return (x,)


def _taken(start: int, end: int, step: int, size: int) -> list[int]:
    """The entries of an axis that a Slice takes. Unlike Python's, a start before the first entry is the first one, also
    where the step is negative."""
    first, last = (0, size) if step > 0 else (-1, size - 1)
    start, end = (place + size if place < 0 else place for place in (start, end))
    return list(range(min(max(start, 0), last), min(max(end, first), last), step)) if size else []


def _split(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x = _input(inputs, 0)
    axis = _axis(attributes.get("axis", 0), x.ndim)
    sizes = _list(attributes, inputs, "split", 1)
    if sizes is None:
        parts = attributes["num_outputs"]
        length = -(-x.shape[axis] // parts)
        sizes = [*[length] * (parts - 1), x.shape[axis] - length * (parts - 1)]
    if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
        raise ValueError(f"sizes {sizes} of an axis of {x.shape[axis]}")
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _gather(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    indices = _input(inputs, 1)
    if indices.dtype.kind != "i":
        raise ValueError("indices are no integers")
    return (np.take(_input(inputs, 0), indices, axis=attributes.get("axis", 0)),)


def _expand(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, shape = _input(inputs, 0), _list(attributes, inputs, "shape", 1) or []
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))).copy(),)


def _tile(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, repeats = _input(inputs, 0), _list(attributes, inputs, "repeats", 1) or []
    if len(repeats) != x.ndim or min(repeats, default=0) < 0:
        raise ValueError(f"repeats {repeats}")
    return (np.tile(x, repeats),)


def _filled(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    value = attributes.get("value", np.zeros(1, np.float32))
    return (np.full(_list(attributes, inputs, "shape", 0) or (), value.reshape(()), value.dtype),)


def _shape(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.array(_input(inputs, 0).shape[attributes.get("start", 0) : attributes.get("end")], np.int64),)


def _size(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.array(_input(inputs, 0).size, np.int64),)


def _where(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    condition, a, b = (_input(inputs, i) for i in range(3))
    _same_type((a, b))
    return (np.where(condition.astype(bool), a, b),)


def _not(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (~_input(inputs, 0).astype(bool),)


def _range(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    start, limit, delta = (_input(inputs, i) for i in range(3))
    _same_type((start, limit, delta))
    return (np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),)


def _two(function: Callable[[Array, Array], Array]) -> Rule:
    """Entry by entry, of two arrays of one type; whole numbers wrap around."""

    def rule(_: Attributes, inputs: Inputs) -> Sequence[Array]:
        a, b = _input(inputs, 0), _input(inputs, 1)
        _same_type((a, b))
        with np.errstate(all="ignore"):
            return (np.asarray(function(a, b)),)

    return rule


def _divided(a: Array, b: Array) -> Array:
    """Whole numbers towards zero."""
    if a.dtype.kind == "f":
        return a / b
    if a.dtype == object:
        return np.asarray(np.frompyfunc(_quotient, 2, 1)(a, b))
    if bool((b == 0).any()) or (a.dtype.kind == "i" and bool(((a == np.iinfo(a.dtype).min) & (b == -1)).any())):
        raise ZeroDivisionError("a quotient that no integer holds")
    quotient = a // b
    return quotient + ((a % b != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def _quotient(a: Size, b: Size) -> Size:
    """Of a whole number or a multiple of the batch size, towards zero."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a // b


def _negative(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (-_input(inputs, 0),)


def _absolute(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.abs(_input(inputs, 0)),)


def _product(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (_reduced(attributes, inputs, operator.mul),)


def _sum(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (_reduced(attributes, inputs, operator.add),)


def _reduced(attributes: Attributes, inputs: Inputs, function: Callable[[Any, Any], Any]) -> Array:
    """Whole numbers added up or multiplied; raises OverflowError where they get so large that runtimes differ."""
    x, axes = _input(inputs, 0), _list(attributes, inputs, "axes", 1)
    if not axes and attributes.get("noop_with_empty_axes", 0):
        return x
    chosen = {_axis(a, x.ndim) for a in axes or range(x.ndim)}
    moved = x.astype(object).transpose([*sorted(chosen), *(a for a in range(x.ndim) if a not in chosen)])
    rows = moved.reshape(-1, *(n for a, n in enumerate(x.shape) if a not in chosen))
    if not len(rows):
        raise ValueError("reduces nothing")
    result = np.asarray(reduce(np.frompyfunc(function, 2, 1), rows), object)
    if x.dtype != object:
        if any(abs(n) >= _ALIKE for n in result.ravel().tolist()):
            raise OverflowError("whole numbers too large to be added up or multiplied alike everywhere")
        result = result.astype(x.dtype)
    kept = attributes.get("keepdims", 1)
    return result.reshape([1 if a in chosen else n for a, n in enumerate(x.shape) if kept or a not in chosen])


_ALIKE = 2**31 - 1
"""Below it, sums and products of whole numbers are the same in every type; some runtimes compute them in others."""


_MOVING: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "Cast": _cast,
        "CastLike": _cast_like,
        "Concat": _concat,
        "Constant": _constant,
        "ConstantOfShape": _filled,
        "Dropout": _dropout,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Identity": lambda _, inputs: (_input(inputs, 0),),
        "Not": _not,
        "Reshape": _reshape,
        "Shape": _shape,
        "Size": _size,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Where": _where,
    }
)
_SINGLE_OPERATIONS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "Abs": _absolute,
        "Add": _two(np.add),
        "Div": _two(_divided),
        "Equal": _two(np.equal),
        "Greater": _two(np.greater),
        "GreaterOrEqual": _two(np.greater_equal),
        "Less": _two(np.less),
        "LessOrEqual": _two(np.less_equal),
        "Mul": _two(np.multiply),
        "Neg": _negative,
        "Sub": _two(np.subtract),
    }
)
_WHOLE_NUMBERS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "And": _two(np.logical_and),
        "Or": _two(np.logical_or),
        "Range": _range,
        "ReduceProd": _product,
        "ReduceSum": _sum,
        "Xor": _two(np.logical_xor),
    }
)

_WITH_SYMBOLS: Final = frozenset(
    (
        *(
            "Add",
            "Div",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Mul",
            "Sub",
            "ReduceProd",
            "Where",
        ),
        *(
            "Concat",
            "Flatten",
            "Gather",
            "Identity",
            "Reshape",
            "Shape",
            "Size",
            "Slice",
            "Split",
            "Squeeze",
            "Transpose",
        ),
        *("ReduceSum", "Unsqueeze"),
    )
)


def symbolic_rule_for(kind: str) -> Rule | None:
    """The rule of an operator on entries that depend on the batch size; None where it has none."""
    return rule_for(kind, (np.dtype(object),)) if kind in _WITH_SYMBOLS else None
