"""An ONNX graph as literal operators: what does not depend on the image is computed, the rest becomes nodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.frontend.advice import advice
from llcert.frontend.folding import Folder, initialiser, tensor
from llcert.frontend.normalise import Graph, where
from llcert.ir import Input, Node, apply
from llcert.ops.movement import reshaped
from llcert.registry import BATCH, Call, Value, onnx_importers

_LARGEST_IMAGE = 2**22
_LEARNED = ("ai.onnx.ml",)
_BROKEN_CALL = (RuntimeError, ValueError, IndexError, TypeError, KeyError, ZeroDivisionError, OverflowError)
"""What importers and torch raise where attributes or shapes make no sense."""


@dataclass(frozen=True, eq=False)
class Literal:
    """The nodes of every value that depends on the image.

    values: by its name in the file, the names of outputs first, those inside branches left out. outputs: of the graph.
    """

    values: Mapping[str, Node]
    outputs: tuple[Node, ...]

    def name_of(self, node: Node) -> str:
        """What the file calls a value, or the one it is a Reshape of."""
        names: dict[Node, str] = {}
        for name, value in self.values.items():
            names.setdefault(value, name)
        while node not in names:
            (node,) = node.inputs
        return names[node]


def literal(graph: Graph) -> Literal:
    """The literal network, its images without batch axis.

    A first axis of one, or a free one, is the batch. Where a file with a fixed first axis of one does not work that
    way, that axis belongs to the image after all. Raises UnsupportedModel naming the node that cannot be imported.
    """
    dims = _dimensions(graph)
    if dims[0] is None:
        return _walk(graph, dims[1:], batched=True)
    if dims[0] != 1 or len(dims) == 1:
        return _walk(graph, dims, batched=False)
    try:
        return _walk(graph, dims[1:], batched=True)
    except UnsupportedModel as refusal:
        try:
            return _walk(graph, dims, batched=False)
        except UnsupportedModel:
            raise refusal from None


def _dimensions(graph: Graph) -> list[int | None]:
    """The sizes of the input's axes, None for a free first one."""
    place = f"{graph.source}: input {graph.image.name!r}"
    kind = graph.image.type
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        raise UnsupportedModel(f"{place}: has no shape; export the model with a fixed image size")
    if kind.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        raise UnsupportedModel(f"{place}: is not float32 or float64; export the model with such an input")
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim]
    if not dims:
        raise UnsupportedModel(f"{place}: is a single number, not an image")
    sizes = [None if i == 0 and d == -1 else d for i, d in enumerate(dims)]
    if None in sizes[1:]:
        axis = sizes.index(None, 1)
        raise UnsupportedModel(f"{place}: axis {axis} has no fixed size; export the model with a fixed image size")
    total = math.prod(d for d in sizes if d is not None)
    if any(d is not None and d < 1 for d in sizes) or total > _LARGEST_IMAGE:
        raise UnsupportedModel(f"{place}: shape {sizes} is not one of an image")
    return sizes


def _walk(graph: Graph, dims: Sequence[int | None], *, batched: bool) -> Literal:
    shape = tuple(d for d in dims if d is not None)
    name = graph.image.name
    # an axis of one in front is not the image's: users have (784,), not (1, 784)
    image = apply(Input(shape if batched or shape[0] != 1 else shape[1:]), name=name)
    walk = _Walk(graph, batched=batched, values={name: reshaped(image, shape), **graph.constants})
    for node in graph.nodes:
        walk.step(node)
    outputs = tuple(walk.values[o] for o in graph.outputs)
    known = [o for o, v in zip(graph.outputs, outputs, strict=True) if not isinstance(v, Node)]
    if known:
        raise UnsupportedModel(f"{graph.source}: output {known[0]!r} does not depend on the input")
    own = (*graph.outputs, name, *(o for node in graph.nodes for o in node.output))
    nodes = {n: v for n in own if isinstance(v := walk.values.get(n), Node)}
    return Literal(nodes, tuple(v for v in outputs if isinstance(v, Node)))


class _Walk:
    """The values known so far, extended node by node."""

    def __init__(self, graph: Graph, *, batched: bool, values: dict[str, Value]) -> None:
        self.graph = graph
        self.batched = batched
        self.values = values
        self.folder = Folder(graph.opset, held=sum(t.numel() for t in graph.constants.values()))
        self.used = {n for node in graph.nodes for n in node.input} | set(graph.outputs)

    def step(self, proto: onnx.NodeProto) -> None:
        """Adds the outputs of one node."""
        place = where(self.graph.source, proto, self._version(proto))
        inputs = [self._value(name, place) if name else None for name in proto.input]
        wanted = self._wanted(proto)
        if proto.op_type == "If" and not isinstance(inputs[0], Node):
            results: Sequence[Value] = self._branch(proto, inputs[0], place)
        elif not any(isinstance(v, Node) for v in inputs):
            results = self._compute(proto, inputs, place)
        elif proto.op_type in ("Shape", "Size"):
            results = (self._shape(proto, inputs[0], place),)
        else:
            results = self._import(proto, inputs, place, wanted)
        if len(results) < wanted:
            raise UnsupportedModel(f"{place}: its output {proto.output[wanted - 1]!r} is not supported")
        self.values.update({n: r for n, r in zip(proto.output, results, strict=False) if n})

    def _value(self, name: str, place: str) -> Value:
        if name not in self.values:
            raise UnsupportedModel(f"{place}: its input {name!r} has no value llcert can use")
        return self.values[name]

    def _wanted(self, proto: onnx.NodeProto) -> int:
        """How many outputs are needed: up to the last that anything reads; all, where listing them means training."""
        if proto.op_type == "BatchNormalization" and self._version(proto) < 14:
            return len([o for o in proto.output if o])
        return max((i + 1 for i, name in enumerate(proto.output) if name in self.used), default=1)

    def _version(self, proto: onnx.NodeProto) -> int:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        return next((o.version for o in self.graph.model.opset_import if o.domain == domain), 0)

    def _branch(self, proto: onnx.NodeProto, condition: Tensor | None, place: str) -> Sequence[Value]:
        """The outputs of the branch that a known condition takes."""
        if condition is None or condition.numel() != 1:
            raise UnsupportedModel(f"{place}: its condition is not one truth value")
        chosen = "then_branch" if bool(condition) else "else_branch"
        branch = next(a.g for a in proto.attribute if a.name == chosen)
        outputs = [o.name for o in branch.output]
        self.values.update({t.name: initialiser(t, self.graph.source) for t in branch.initializer})
        self.used.update(outputs, (n for node in branch.node for n in node.input))
        for node in branch.node:
            self.step(node)
        return [self._value(name, place) for name in outputs]

    def _compute(self, proto: onnx.NodeProto, inputs: Sequence[Value | None], place: str) -> Sequence[Tensor]:
        if proto.domain not in ("", "ai.onnx") or any(a.HasField("g") or a.graphs for a in proto.attribute):
            raise UnsupportedModel(f"{place}: llcert does not compute constants with this operator")
        known = [v if isinstance(v, Tensor) else None for v in inputs]
        return self.folder.compute(proto, known, place)

    def _shape(self, proto: onnx.NodeProto, value: Value | None, place: str) -> Tensor:
        if not isinstance(value, Node):
            raise UnsupportedModel(f"{place}: has no input")
        foreign = ((BATCH,) if self.batched else ()) + value.shape
        if proto.op_type == "Size":
            return torch.tensor(math.prod(foreign))
        attributes = _attributes(proto, place)
        return torch.tensor(foreign[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)

    def _import(self, proto: onnx.NodeProto, inputs: Sequence[Value | None], place: str, wanted: int) -> Sequence[Node]:
        importer = onnx_importers.get(proto.op_type)
        if proto.domain not in ("", "ai.onnx", *_LEARNED):
            raise UnsupportedModel(f"{place}: is not a standard ONNX operator; export without {proto.domain}")
        if importer is None:
            raise UnsupportedModel(f"{place}: {advice(proto.op_type)}")
        call = Call(
            kind=proto.op_type,
            where=place,
            version=self._version(proto),
            inputs=tuple(inputs),
            attributes={**_defaults(proto, self._version(proto)), **_attributes(proto, place)},
            batched=self.batched,
            outputs=wanted,
        )
        try:
            result = importer(call)
        except UnsupportedModel as refusal:
            raise refusal if str(refusal).startswith(place) else UnsupportedModel(f"{place}: {refusal}") from None
        except _BROKEN_CALL as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedModel(f"{place}: its inputs and attributes do not fit together ({lines[0]})") from None
        nodes = result if isinstance(result, tuple) else (result,)
        return [self._named(n, proto, inputs) for n in nodes]

    def _named(self, node: Node, proto: onnx.NodeProto, inputs: Sequence[Value | None]) -> Node:
        """The node under the name the file gives it, unless it is one of the inputs."""
        if node.name or any(node is v for v in inputs):
            return node
        return dataclasses.replace(node, name=proto.name or next(o for o in proto.output if o))


def _attributes(proto: onnx.NodeProto, place: str) -> dict[str, Any]:
    """ONNX attributes as plain Python values and tensors."""
    return dict(_plain(a, place) for a in proto.attribute)


def _defaults(proto: onnx.NodeProto, version: int) -> dict[str, float]:
    """The operator's own numbers for attributes a file leaves out, in float32, as runtimes read them."""
    try:
        schema = onnx.defs.get_schema(proto.op_type, version, "" if proto.domain == "ai.onnx" else proto.domain)
    except onnx.defs.SchemaError:
        return {}
    known = (a.default_value for a in schema.attributes.values())
    return {a.name: a.f for a in known if a.type == AttributeProto.FLOAT}


def _plain(attribute: onnx.AttributeProto, place: str) -> tuple[str, Any]:
    match attribute.type:
        case AttributeProto.FLOAT | AttributeProto.INT | AttributeProto.FLOATS | AttributeProto.INTS:
            value = helper.get_attribute_value(attribute)
            return attribute.name, value if isinstance(value, int | float) else tuple(value)
        case AttributeProto.STRING:
            return attribute.name, attribute.s.decode("utf-8", "replace")
        case AttributeProto.STRINGS:
            return attribute.name, tuple(s.decode("utf-8", "replace") for s in attribute.strings)
        case AttributeProto.TENSOR:
            return attribute.name, tensor(numpy_helper.to_array(attribute.t), place)
        case _:
            raise UnsupportedModel(f"{place}: its attribute {attribute.name!r} is of a kind llcert does not read")
