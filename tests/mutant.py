"""A fault that is made in the code of this process: what it names, where that stands, and its change."""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

import llcert


@dataclass(frozen=True)
class Mutant:
    """A fault and who notices it.

    name: what goes wrong. target: the qualified name of a function or method of llcert. old, new: a piece of its
    source, and what stands there instead. caught_by: the test that fails, as pytest names it.
    """

    name: str
    target: str
    old: str
    new: str
    caught_by: str


def place(mutant: Mutant) -> FunctionType:
    """The function that a mutant changes. Raises LookupError where none, or more than one, holds the piece once."""
    found = [f for f in _functions() if f.__qualname__ == mutant.target and _source(f).count(mutant.old) == 1]
    if len(found) != 1:
        raise LookupError(f"{mutant.name}: {len(found)} functions {mutant.target} hold {mutant.old!r} once, not one")
    return found[0]


def apply(mutant: Mutant) -> None:
    """Makes the change in this process, for everybody who holds the function. Raises LookupError where it is gone."""
    function = place(mutant)
    tree = ast.parse(_source(function).replace(mutant.old, mutant.new))
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    made: dict[str, Any] = {}
    code = compile(tree, f"<{mutant.name}>", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
    exec(code, function.__globals__, made)
    function.__code__ = made[definition.name].__code__


def _source(function: FunctionType) -> str:
    return textwrap.dedent(inspect.getsource(function))


def _functions() -> Iterator[FunctionType]:
    """Every function and method that llcert defines, without the wrappers around it."""
    for found in pkgutil.walk_packages(llcert.__path__, "llcert."):
        if not found.name.endswith("__main__"):
            yield from _of(importlib.import_module(found.name), found.name)


def _of(owner: ModuleType | type, module: str) -> Iterator[FunctionType]:
    for value in vars(owner).values():
        inner = _inner(value)
        if isinstance(inner, FunctionType) and inner.__module__ == module:
            yield inner
        elif isinstance(value, type) and value.__module__ == module and value is not owner:
            yield from _of(value, module)


def _inner(value: object) -> object:
    match value:
        case property(fget=function) | cached_property(func=function):
            return function
        case staticmethod() | classmethod():
            return inspect.unwrap(value.__func__)
        case FunctionType():
            return inspect.unwrap(value)
    return value
