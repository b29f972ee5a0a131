"""Graphs of aten operators as values, from whichever torch door."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ref:
    """A value of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator call of a traced graph.

    target: an aten overload, or a Python function of integers, lists and tuples. arguments: by name in the schema,
    or by position for a Python function; values of the graph stand as Refs, also inside lists. output: one name, or
    one for each result. hint: where in the user's model the call comes from. dtype: of a single result, as traced.
    """

    target: torch._ops.OpOverload | Callable[..., Any]
    arguments: Mapping[str, Any]
    output: str | tuple[str | None, ...]
    hint: str = ""
    dtype: torch.dtype | None = None

    @property
    def kind(self) -> str:
        """The operator's name without namespace and overload."""
        if isinstance(self.target, torch._ops.OpOverload):
            return self.target._schema.name.split("::")[-1]
        return self.target.__name__

    def refs(self) -> Iterator[str]:
        """The names of the values it reads."""
        return (r.name for r in leaves(list(self.arguments.values())) if isinstance(r, Ref))


@dataclass(frozen=True)
class Traced:
    """A torch graph with one image input. batch: the number of images it was written for, None for any number."""

    known: Mapping[str, Tensor]
    image: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int | None
    steps: tuple[Step, ...]
    output: str
    source: str


def step_name(step: Step) -> str:
    return step.output if isinstance(step.output, str) else next((n for n in step.output if n), step.kind)


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one short line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [mapped(item, change) for item in value]
    if isinstance(value, Mapping):
        return {name: mapped(item, change) for name, item in value.items()}
    return change(value)


PYTHON: Mapping[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        operator.getitem,
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.truediv,
        operator.mod,
        operator.neg,
        operator.eq,
        operator.ne,
        operator.lt,
        operator.le,
        operator.gt,
        operator.ge,
        math.trunc,
        math.ceil,
        math.floor,
    )
}
"""The Python functions that traced graphs compute sizes with."""
