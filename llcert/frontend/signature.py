"""What the ONNX standard says of an operator: which inputs share an element type, what an attribute left out means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import onnx
from onnx import defs, helper

from llcert.errors import UnsupportedModel
from llcert.frontend.constants import Constant, Repeated
from llcert.ir import Node, format_name


def schema(node: onnx.NodeProto, version: int) -> defs.OpSchema | None:
    """The operator's definition in an opset; None where onnx has none."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        return defs.get_schema(node.op_type, version, domain)
    except defs.SchemaError:
        return None


def defaults(known: defs.OpSchema) -> dict[str, Any]:
    """The attributes that have a value where a file leaves them out; numbers are float32 numbers, as in a file."""
    values = {
        name: helper.get_attribute_value(attribute.default_value)
        for name, attribute in known.attributes.items()
        if attribute.default_value.type
    }
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}


def element_type(value: Constant | Node) -> str:
    """What ONNX and numpy call the type of its entries: `float32`."""
    if isinstance(value, Node):
        return format_name(value.dtype)
    return (value.image if isinstance(value, Repeated) else value).dtype.name


def check_types(known: defs.OpSchema, types: Sequence[str | None], place: str) -> None:
    """Nothing, where all inputs that must be of one element type are: an ONNX operator converts nothing.

    types: of the inputs, None for those left out. Raises UnsupportedModel naming two that differ.
    """
    first: dict[str, tuple[str, str]] = {}
    for (name, variable), found in zip(_parameters(known), types, strict=False):
        if found is None:
            continue
        other, expected = first.setdefault(variable, (name, found))
        if found != expected:
            raise UnsupportedModel(
                f"{place}: its {name} is {found} and its {other} {expected}, which ONNX does not allow; put a Cast in "
                "front"
            )


def _parameters(known: defs.OpSchema) -> Iterator[tuple[str, str]]:
    """Name and type variable of every input; the last one over and over where it stands for any number of inputs."""
    several = defs.OpSchema.FormalParameterOption.Variadic
    for parameter in known.inputs:
        named = parameter.name, parameter.type_str
        yield from repeat(named) if parameter.option == several else (named,)
