"""Rules of operators that move constants, or count them: the same in every runtime, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from onnx import helper

from llcert.frontend.rule_inputs import (
    Array,
    Attributes,
    Inputs,
    Rule,
    array_at,
    axis_of,
    cast,
    check_same_type,
    whole_numbers,
)


def _cast(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (cast(array_at(inputs, 0), np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"]))),)


def _cast_like(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (cast(array_at(inputs, 0), array_at(inputs, 1).dtype),)


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
    return (array_at(inputs, 0),)


def _reshape(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, shape = array_at(inputs, 0), whole_numbers(attributes, inputs, "shape", 1) or []
    if not attributes.get("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    if shape.count(-1) > 1 or min(shape, default=0) < -1:
        raise ValueError(f"no shape: {shape}")
    return (x.reshape(shape),)


def _flatten(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x = array_at(inputs, 0)
    axis = attributes.get("axis", 1)
    axis = axis if axis == x.ndim else axis_of(axis, x.ndim)
    return (x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])),)


def _transpose(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (array_at(inputs, 0).transpose(attributes.get("perm")),)


def _squeeze(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    axes = whole_numbers(attributes, inputs, "axes", 1)
    return (array_at(inputs, 0).squeeze(tuple(axes) if axes else None),)


def _unsqueeze(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.expand_dims(array_at(inputs, 0), tuple(whole_numbers(attributes, inputs, "axes", 1) or ())),)


def _concat(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    arrays = [array_at(inputs, i) for i in range(len(inputs))]
    check_same_type(arrays)
    return (np.concatenate(arrays, attributes["axis"]),)


def _slice(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, names = array_at(inputs, 0), ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (whole_numbers(attributes, inputs, name, i) for i, name in enumerate(names, start=1))
    if starts is None or ends is None:
        raise ValueError("no starts or no ends")
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, [1] * len(starts) if steps is None else steps, strict=True):
        ours = axis_of(axis, x.ndim)
        x = x.take(_taken(start, end, step, x.shape[ours]), ours)
    return (x,)


def _taken(start: int, end: int, step: int, size: int) -> list[int]:
    """The entries of an axis that a Slice takes. Unlike Python's, a start before the first entry is the first one, also
    where the step is negative."""
    first, last = (0, size) if step > 0 else (-1, size - 1)
    start, end = (place + size if place < 0 else place for place in (start, end))
    return list(range(min(max(start, 0), last), min(max(end, first), last), step)) if size else []


def _split(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x = array_at(inputs, 0)
    axis = axis_of(attributes.get("axis", 0), x.ndim)
    sizes = whole_numbers(attributes, inputs, "split", 1)
    if sizes is None:
        parts = attributes["num_outputs"]
        length = -(-x.shape[axis] // parts)
        sizes = [*[length] * (parts - 1), x.shape[axis] - length * (parts - 1)]
    if sum(sizes) != x.shape[axis] or min(sizes, default=0) < 0:
        raise ValueError(f"sizes {sizes} of an axis of {x.shape[axis]}")
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _gather(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    indices = array_at(inputs, 1)
    if indices.dtype.kind != "i":
        raise ValueError("indices are no integers")
    return (np.take(array_at(inputs, 0), indices, axis=attributes.get("axis", 0)),)


def _expand(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, shape = array_at(inputs, 0), whole_numbers(attributes, inputs, "shape", 1) or []
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))).copy(),)


def _tile(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    x, repeats = array_at(inputs, 0), whole_numbers(attributes, inputs, "repeats", 1) or []
    if len(repeats) != x.ndim or min(repeats, default=0) < 0:
        raise ValueError(f"repeats {repeats}")
    return (np.tile(x, repeats),)


def _filled(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    value = attributes.get("value", np.zeros(1, np.float32))
    return (np.full(whole_numbers(attributes, inputs, "shape", 0) or (), value.reshape(()), value.dtype),)


def _shape(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.array(array_at(inputs, 0).shape[attributes.get("start", 0) : attributes.get("end")], np.int64),)


def _size(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.array(array_at(inputs, 0).size, np.int64),)


def _where(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    condition, a, b = (array_at(inputs, i) for i in range(3))
    check_same_type((a, b))
    return (np.where(condition.astype(bool), a, b),)


def _not(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (~array_at(inputs, 0).astype(bool),)


MOVING: Final[Mapping[str, Rule]] = MappingProxyType(
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
        "Identity": lambda _, inputs: (array_at(inputs, 0),),
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
