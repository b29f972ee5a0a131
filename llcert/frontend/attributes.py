"""Attributes of ONNX nodes as plain Python values and numpy arrays."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import AttributeProto, helper, numpy_helper

from llcert.errors import UnsupportedModel


def attributes(proto: onnx.NodeProto, place: str) -> dict[str, Any]:
    """The attributes a node gives; refuses kinds that no operator here has, graphs among them."""
    return {a.name: _python_value(a, place) for a in proto.attribute}


def _python_value(attribute: AttributeProto, place: str) -> Any:
    match attribute.type:
        case AttributeProto.FLOAT | AttributeProto.INT | AttributeProto.FLOATS | AttributeProto.INTS:
            value = helper.get_attribute_value(attribute)
            return value if isinstance(value, int | float) else tuple(value)
        case AttributeProto.STRING:
            return attribute.s.decode("utf-8", "replace")
        case AttributeProto.STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in attribute.strings)
        case AttributeProto.TENSOR:
            try:
                return numpy_helper.to_array(attribute.t)
            except Exception:  # broken bytes raise whatever numpy does
                raise UnsupportedModel(f"{place}: the data of its {attribute.name!r} does not fit its type") from None
    raise UnsupportedModel(f"{place}: its attribute {attribute.name!r} is of a kind llcert does not read")
