"""An ONNX graph as literal operators: what does not depend on the image is computed, the rest becomes nodes."""

from __future__ import annotations

import dataclasses
import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto

from llcert.errors import UnsupportedModel
from llcert.frontend.advice import advice
from llcert.frontend.attributes import attributes
from llcert.frontend.constants import Constant, given, initialiser, sizes_of, tensor
from llcert.frontend.folding import ConstantFolder
from llcert.frontend.functions import STANDARD_DOMAINS
from llcert.frontend.limits import NO_LARGER, Budget
from llcert.frontend.nested import nodes_within, subgraphs
from llcert.frontend.normalise import Graph, reads, where
from llcert.frontend.signature import check_types, defaults, element_type, schema
from llcert.ir import Input, Node, apply
from llcert.ir.batch_size import BATCH, DependsOnBatch, Size
from llcert.ops.movement import reshaped
from llcert.ops.registry import Call, onnx_importers

_FORMATS: dict[int, torch.dtype] = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64}
_LARGEST_IMAGE = 2**22
_LEARNED = ("ai.onnx.ml",)
_BROKEN_CALL = (RuntimeError, ValueError, IndexError, TypeError, KeyError, ZeroDivisionError, OverflowError)
"""What importers and torch raise where attributes or shapes make no sense."""

Known = Constant | Node
"""A value of a graph."""


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


@dataclass(frozen=True)
class Reading:
    """One way to read the input of a file. sizes: of its axes, None for a free one in front. batched: whether the first
    is the batch."""

    sizes: tuple[int | None, ...]
    batched: bool

    @property
    def batch(self) -> int:
        """The number of images that is baked into literal sizes; one where it is free."""
        return (self.sizes[0] or 1) if self.batched else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, as the file has it."""
        return tuple(n for n in self.sizes[self.batched :] if n is not None)


def readings(graph: Graph) -> tuple[Reading, ...]:
    """How the input may be meant, the likeliest first: a first axis that is free or one is the batch, where the file
    works that way; a longer one belongs to the image, unless it does not work that way."""
    sizes = tuple(_dimensions(graph))
    batched, whole = Reading(sizes, batched=True), Reading(sizes, batched=False)
    if sizes[0] is None:
        return (batched,)
    if len(sizes) == 1:
        return (whole,)
    return (batched, whole) if sizes[0] == 1 else (whole, batched)


def _dimensions(graph: Graph) -> list[int | None]:
    """The sizes of the input's axes, None for a free first one."""
    place = f"{graph.source}: input {graph.image.name!r}"
    kind = graph.image.type
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        raise UnsupportedModel(f"{place}: has no shape; export the model with a fixed image size")
    if kind.tensor_type.elem_type not in _FORMATS:
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


class Walk:
    """The literal network of one reading, node by node. done: how many nodes were read."""

    def __init__(self, graph: Graph, reading: Reading) -> None:
        self.graph = graph
        name, shape = graph.image.name, reading.shape
        # an axis of one in front is not the image's: users have (784,), not (1, 784)
        dtype = _FORMATS[graph.image.type.tensor_type.elem_type]
        image = apply(Input(shape if reading.batched or shape[0] != 1 else shape[1:], dtype), name=name)
        values: dict[str, Known] = {name: reshaped(image, shape), **graph.constants}
        held = sum(a.size for a in graph.constants.values())
        folder, budget, used = ConstantFolder(graph.opset, held), Budget(held), _read(graph.nodes, graph.outputs)
        self._scope = _Scope(graph, reading, folder, budget, ChainMap(values), used)
        self.done = 0

    def __call__(self) -> Literal:
        """Raises UnsupportedModel naming the node that cannot be imported."""
        for node in self.graph.nodes:
            self._scope.step(node)
            self.done += 1
        values = self._scope.values
        outputs = [values[o] for o in self.graph.outputs]
        known = [o for o, v in zip(self.graph.outputs, outputs, strict=True) if not isinstance(v, Node)]
        if known:
            raise UnsupportedModel(f"{self.graph.source}: output {known[0]!r} does not depend on the input")
        names = (*self.graph.outputs, self.graph.image.name, *(o for node in self.graph.nodes for o in node.output))
        nodes = {n: v for n in names if isinstance(v := values.get(n), Node)}
        return Literal(nodes, tuple(v for v in outputs if isinstance(v, Node)))


def _read(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> frozenset[str]:
    """The names that something reads."""
    return frozenset({n for node in nodes for n in reads(node)} | set(outputs))


@dataclass(frozen=True)
class _Scope:
    """The values of a graph, extended node by node; those of a branch hide names of the graph around it, for itself.

    used: names that something in the graph reads.
    """

    graph: Graph
    reading: Reading
    folder: ConstantFolder
    budget: Budget
    values: ChainMap[str, Known]
    used: frozenset[str]

    def step(self, proto: onnx.NodeProto) -> None:
        """Adds the outputs of one node."""
        place = where(self.graph.source, proto, self._version(proto))
        inputs = [self._value(name, place) if name else None for name in proto.input]
        wanted = self._wanted(proto)
        if proto.op_type == "If" and not isinstance(inputs[0], Node):
            results: Sequence[Known] = self._branch(proto, inputs[0], place)
        elif proto.op_type in ("Shape", "Size") and isinstance(inputs[0], Node):
            results = (self._shape(proto, inputs[0], place),)
        elif proto.op_type == "CastLike" and isinstance(inputs[0], np.ndarray) and isinstance(inputs[1], Node):
            results = (inputs[0].astype(element_type(inputs[1])),)
        elif not any(isinstance(v, Node) for v in inputs):
            results = self._compute(proto, inputs, place)
        else:
            results = self._import(proto, inputs, place, wanted)
        self.budget.spend((r for r in results if isinstance(r, Node)), place)
        if len(results) < wanted:
            raise UnsupportedModel(f"{place}: its output {proto.output[wanted - 1]!r} is not supported")
        self.values.update({n: r for n, r in zip(proto.output, results, strict=False) if n})

    def _value(self, name: str, place: str) -> Known:
        if name not in self.values:
            raise UnsupportedModel(f"{place}: its input {name!r} has no value llcert can use")
        return self.values[name]

    def _wanted(self, proto: onnx.NodeProto) -> int:
        """How many outputs are needed: up to the last that anything reads; all, where listing them means training."""
        if proto.op_type == "BatchNormalization" and self._version(proto) < 14:
            return len([o for o in proto.output if o])
        return max((i + 1 for i, name in enumerate(proto.output) if name in self.used), default=1)

    def _version(self, proto: onnx.NodeProto) -> int:
        domain = "" if proto.domain in STANDARD_DOMAINS else proto.domain
        return next((o.version for o in self.graph.model.opset_import if o.domain == domain), 0)

    def _branch(self, proto: onnx.NodeProto, condition: Known | None, place: str) -> Sequence[Known]:
        """The outputs of the branch that a known condition takes, which is a scope of its own."""
        if not isinstance(condition, np.ndarray) or condition.size != 1:
            raise UnsupportedModel(f"{place}: its condition is not one truth value that every batch has")
        chosen = "then_branch" if bool(condition.item()) else "else_branch"
        branch = next(a.g for a in proto.attribute if a.name == chosen)
        for node in nodes_within(n for a in proto.attribute if a.name != chosen for n in a.g.node):
            # runtimes compute what is known in it all the same, and nothing here has looked at that
            if node.op_type not in NO_LARGER:
                raise UnsupportedModel(f"{place}: its other branch has {node.op_type}; export without that branch")
        outputs = [o.name for o in branch.output]
        own: dict[str, Known] = {t.name: initialiser(t, self.graph.source) for t in branch.initializer}
        inner = replace(self, values=self.values.new_child(own), used=_read(branch.node, outputs))
        for node in branch.node:
            inner.step(node)
        return [inner._value(name, place) for name in outputs]

    def _compute(self, proto: onnx.NodeProto, inputs: Sequence[Known | None], place: str) -> Sequence[Constant]:
        if proto.domain not in STANDARD_DOMAINS or any(True for _ in subgraphs(proto)):
            raise UnsupportedModel(f"{place}: llcert does not compute constants with this operator")
        return self.folder.compute(proto, [v for v in inputs if not isinstance(v, Node)], place)

    def _shape(self, proto: onnx.NodeProto, value: Node, place: str) -> Constant:
        """The shape or size of a value of the image, the batch as a symbol in it."""
        foreign: list[Size] = [*([BATCH] if self.reading.batched else []), *value.shape]
        given = attributes(proto, place)
        chosen = [math.prod(foreign)] if proto.op_type == "Size" else foreign[given.get("start", 0) : given.get("end")]
        return sizes_of(chosen, scalar=proto.op_type == "Size")

    def _import(self, proto: onnx.NodeProto, inputs: Sequence[Known | None], place: str, wanted: int) -> Sequence[Node]:
        importer, known = onnx_importers.get(proto.op_type), schema(proto, self._version(proto))
        if proto.domain not in (*STANDARD_DOMAINS, *_LEARNED):
            raise UnsupportedModel(f"{place}: is not a standard ONNX operator; export without {proto.domain}")
        if importer is None or known is None:
            raise UnsupportedModel(f"{place}: {advice(proto.op_type)}")
        check_types(known, [None if v is None else element_type(v) for v in inputs], place)
        said = {**defaults(known), **attributes(proto, place)}
        call = Call(
            kind=proto.op_type,
            where=place,
            version=self._version(proto),
            inputs=tuple(v if v is None or isinstance(v, Node) else given(v, place) for v in inputs),
            attributes={k: tensor(v, place) if isinstance(v, np.ndarray) else v for k, v in said.items()},
            batched=self.reading.batched,
            batch=self.reading.batch,
            outputs=wanted,
        )
        try:
            result = importer(call)
        except UnsupportedModel as refusal:
            raise refusal if str(refusal).startswith(place) else UnsupportedModel(f"{place}: {refusal}") from None
        except DependsOnBatch as error:
            raise UnsupportedModel(f"{place}: {error}") from None
        except _BROKEN_CALL as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UnsupportedModel(f"{place}: its inputs and attributes do not fit together ({lines[0]})") from None
        nodes = result if isinstance(result, tuple) else (result,)
        return [self._named(n, proto, inputs) for n in nodes]

    def _named(self, node: Node, proto: onnx.NodeProto, inputs: Sequence[Known | None]) -> Node:
        """The node under the name the file gives it, unless it is one of the inputs."""
        if node.name or any(node is v for v in inputs):
            return node
        return dataclasses.replace(node, name=proto.name or next(o for o in proto.output if o))
