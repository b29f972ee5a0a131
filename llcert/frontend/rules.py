"""Operators whose results on constants are the same in every runtime, to the last bit: data movement, whole numbers in
their own width, and single operations that IEEE 754 defines. Entries that depend on the batch size move along."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from llcert.frontend.moving_rules import MOVING
from llcert.frontend.rule_inputs import (
    Array,
    Attributes,
    Inputs,
    Rule,
    array_at,
    axis_of,
    check_same_type,
    whole_numbers,
)
from llcert.ir.batch_size import Size


def rule_for(kind: str, dtypes: Sequence[np.dtype[Any]]) -> Rule | None:
    """The rule of an operator on inputs of these types, None where there is none."""
    if kind in MOVING:
        return MOVING[kind]
    exact = all(d.kind in "biuO" or d in (np.float32, np.float64) for d in dtypes)
    if kind in _SINGLE_OPERATIONS and exact:
        return _SINGLE_OPERATIONS[kind]
    whole = all(d.kind in "biuO" for d in dtypes)
    return _WHOLE_NUMBERS.get(kind) if whole else None


def _range(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    start, limit, delta = (array_at(inputs, i) for i in range(3))
    check_same_type((start, limit, delta))
    return (np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),)


def _two(function: Callable[[Array, Array], Array]) -> Rule:
    """Entry by entry, of two arrays of one type; whole numbers wrap around."""

    def rule(_: Attributes, inputs: Inputs) -> Sequence[Array]:
        a, b = array_at(inputs, 0), array_at(inputs, 1)
        check_same_type((a, b))
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
    return (-array_at(inputs, 0),)


def _absolute(_: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (np.abs(array_at(inputs, 0)),)


def _product(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (_reduced(attributes, inputs, operator.mul),)


def _sum(attributes: Attributes, inputs: Inputs) -> Sequence[Array]:
    return (_reduced(attributes, inputs, operator.add),)


def _reduced(attributes: Attributes, inputs: Inputs, function: Callable[[Any, Any], Any]) -> Array:
    """Whole numbers added up or multiplied; raises OverflowError where they get so large that runtimes differ."""
    x, axes = array_at(inputs, 0), whole_numbers(attributes, inputs, "axes", 1)
    if not axes and attributes.get("noop_with_empty_axes", 0):
        return x
    chosen = {axis_of(a, x.ndim) for a in axes or range(x.ndim)}
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
