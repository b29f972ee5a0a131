"""Local functions of an ONNX model, written out where they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
import onnx.inliner
from onnx import FunctionProto, NodeProto

from llcert.errors import UnsupportedModel
from llcert.frontend.nested import all_nodes, nodes_within

STANDARD_DOMAINS = ("", "ai.onnx")
_RUNTIMES_OWN = ("ai.onnx.", "com.microsoft", "com.ms.")
"""Starts of domains in which runtimes have operators of their own, which win over a function of that name."""

_Name = tuple[str, str, str]
"""Domain, name, overload."""


def inlined(model: onnx.ModelProto, opset: int, source: str, *, most: int) -> onnx.ModelProto:
    """The model without local functions: their bodies stand in place of the calls, defaults of attributes filled in.

    opset: of the model's standard operators. most: how many nodes it may unfold to. Raises UnsupportedModel, by name,
    for functions that runtimes read differently from one another, or that do not end.
    """
    if not model.functions:
        return model
    functions = {_name(f): f for f in model.functions}
    if len(functions) < len(model.functions):
        raise UnsupportedModel(f"{source}: two local functions have the same name")
    for function in model.functions:
        _check(function, opset, source)
    _check_size(model, functions, source, most)
    for node in all_nodes(model):
        _fill_defaults(node, functions, source)
    try:
        result = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # onnx reports broken functions by whatever its C++ code throws
        raise UnsupportedModel(f"{source}: its local functions cannot be inlined ({type(error).__name__})") from None
    if result.functions:
        raise UnsupportedModel(f"{source}: the local function {result.functions[0].name!r} cannot be inlined")
    return result


def _name(proto: FunctionProto | NodeProto) -> _Name:
    domain = "" if proto.domain in STANDARD_DOMAINS else proto.domain
    return domain, proto.name if isinstance(proto, FunctionProto) else proto.op_type, proto.overload


def _check(function: FunctionProto, opset: int, source: str) -> None:
    place = f"{source}: the local function {function.name!r}"
    if function.domain in STANDARD_DOMAINS or function.domain.startswith(_RUNTIMES_OWN):
        raise UnsupportedModel(
            f"{place} is in the domain {function.domain or 'ai.onnx'!r}, where runtimes have operators of their own; "
            "give its domain another name"
        )
    versions = {o.version for o in function.opset_import if o.domain in STANDARD_DOMAINS}
    if versions - {opset}:
        raise UnsupportedModel(
            f"{place} is written in opset {', '.join(map(str, sorted(versions)))}, the model in {opset}, and runtimes "
            "differ in which of them they use; export with one opset"
        )


def _check_size(model: onnx.ModelProto, functions: Mapping[_Name, FunctionProto], source: str, most: int) -> None:
    """Nothing, where functions call one another without cycles and stay small when written out."""
    bodies = {name: [_name(n) for n in nodes_within(f.node)] for name, f in functions.items()}
    sizes: dict[_Name, int] = {}
    for start in bodies:
        stack = [(start, iter(bodies[start]))] if start not in sizes else []
        while stack:
            current, calls = stack[-1]
            callee = next((c for c in calls if c in bodies and c not in sizes), None)
            if callee is None:
                sizes[current] = _unfolded(bodies[current], sizes)
                stack.pop()
            elif any(callee == open_ for open_, _ in stack):
                raise UnsupportedModel(f"{source}: the local function {callee[1]!r} calls itself")
            else:
                stack.append((callee, iter(bodies[callee])))
    total = _unfolded((_name(n) for n in nodes_within(model.graph.node)), sizes)
    if total > most:
        raise UnsupportedModel(f"{source}: its local functions unfold to {total} nodes, more than llcert allows")


def _unfolded(names: Iterable[_Name], sizes: Mapping[_Name, int]) -> int:
    return sum(sizes.get(name, 1) for name in names)


def _fill_defaults(node: NodeProto, functions: Mapping[_Name, FunctionProto], source: str) -> None:
    """Writes the defaults of a function's attributes into a call that leaves them out, which inlining would drop."""
    function = functions.get(_name(node))
    if function is None:
        return
    given = {a.name for a in node.attribute}
    node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
    missing = [name for name in function.attribute if name not in given]
    if missing:
        where = f"{source}: node {node.name or function.name!r}"
        raise UnsupportedModel(f"{where}: calls the local function {function.name!r} without its {missing[0]!r}")
