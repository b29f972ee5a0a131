"""What rules of operators on constants take: attributes and arrays, in types that runtimes agree on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


Attributes = Mapping[str, Any]


Inputs = Sequence[Array | None]


Rule = Callable[[Attributes, Inputs], Sequence[Array]]
"""From attributes, `num_outputs` among them, and inputs to outputs.

Raises ValueError, IndexError, TypeError or ArithmeticError where they do not fit together, or where runtimes differ.
Arrays of BatchSize and int have the dtype object.
"""


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


def array_at(inputs: Inputs, position: int) -> Array:
    value = inputs[position] if position < len(inputs) else None
    if value is None:
        raise ValueError(f"input {position} is missing")
    return value


def whole_numbers(attributes: Attributes, inputs: Inputs, name: str, position: int) -> list[int] | None:
    """Whole numbers from an attribute (old opsets) or an input (newer ones)."""
    given = attributes.get(name)
    if given is None and position < len(inputs):
        array = inputs[position]
        given = None if array is None else array.ravel().tolist()
    if given is None:
        return None
    return [operator.index(n) for n in (given if isinstance(given, Sequence) else [given])]


def axis_of(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def check_same_type(arrays: Sequence[Array]) -> None:
    if len({a.dtype for a in arrays}) > 1:
        raise ValueError(f"types {', '.join(str(a.dtype) for a in arrays)} differ")
