"""In which number format a torch operator computes, and its arguments brought to it as torch brings them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import Node, format_name
from llcert.numerics.rounding import FORMATS
from llcert.ops.cast import cast
from llcert.ops.registry import ForEveryImage

_PROMOTING = frozenset(
    {
        *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide"),
        *("maximum", "minimum", "max", "min", "clamp", "clip", "clamp_min", "clamp_max"),
        *("cat", "concat", "concatenate", "stack"),
    }
)
"""Operators that bring all their arguments to one format."""

_CONVERTING = frozenset({"sum", "mean", "softmax", "log_softmax"})
"""Operators that bring their input to the `dtype` they are given, before anything else."""

_INDIFFERENT = frozenset({"to", "_to_copy", "type_as", "view_as", "reshape_as", "expand_as"})
"""Operators that ask another value for its shape or its type alone."""


def promoted(kind: str, arguments: Mapping[str, Any], where: str) -> tuple[dict[str, Any], torch.dtype]:
    """The arguments of an operator on values of the image, in the format it computes in, and that format.

    Numbers and single-number tensors never decide it. Raises UnsupportedModel where it is none of llcert's, or torch
    would not mix what is mixed.
    """
    given = [v.image if isinstance(v, ForEveryImage) else v for v in _leaves(list(arguments.values()))]
    values = [v for v in given if isinstance(v, Node | Tensor)]
    nodes = [v for v in values if isinstance(v, Node)]
    if kind in _INDIFFERENT:
        return dict(arguments), nodes[0].dtype
    if kind in _CONVERTING and isinstance(arguments.get("dtype"), torch.dtype):
        return _converted(arguments, known(arguments["dtype"], where)), arguments["dtype"]
    if kind in _PROMOTING:
        deciding = [v.dtype for v in values if isinstance(v, Node) or v.ndim > 0]
        dtype = known(reduce(torch.promote_types, deciding), where)
        return _converted(arguments, dtype), dtype
    kinds = {v.dtype for v in values if v.dtype.is_floating_point}
    if len(kinds) > 1:
        names = " and ".join(sorted(map(format_name, kinds)))
        raise UnsupportedModel(f"{where}: meets values in {names}; bring them to one type with .to()")
    return dict(arguments), nodes[0].dtype


def known(dtype: torch.dtype, where: str) -> torch.dtype:
    """The same format; raises UnsupportedModel where it is none of llcert's."""
    if dtype not in FORMATS:
        raise UnsupportedModel(f"{where}: computes in {format_name(dtype)}; llcert models float32 and float64")
    return dtype


def _converted(arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    def convert(leaf: Any) -> Any:
        if isinstance(leaf, ForEveryImage):
            return ForEveryImage(leaf.image.to(dtype))
        return cast(leaf, dtype) if isinstance(leaf, Node) else leaf.to(dtype) if isinstance(leaf, Tensor) else leaf

    return {name: _mapped(value, convert) for name, value in arguments.items()}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    return [_mapped(item, change) for item in value] if isinstance(value, list | tuple) else change(value)
