"""ONNX files as they lie on disk, brought to one form: checked, ordered, functions inlined, weights inside."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx
from onnx import TensorProto

from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.constants import initialiser
from llcert.frontend.external import load_external
from llcert.frontend.functions import STANDARD_DOMAINS, inlined
from llcert.frontend.nested import all_graphs, all_nodes
from llcert.frontend.rule_inputs import Array

OLDEST_OPSET = 7
"""Older opsets broadcast by rules of their own."""

_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
_LARGEST_FILE = 2**31
_MOST_NODES = 200_000

_DANGLING = (
    "{where}: uses {name!r}, which nothing in the file produces; Keras's Normalization layer exports such files: "
    "take the layer out, export again, and give --mean and --std instead"
)


@dataclass(frozen=True, eq=False)
class Graph:
    """A checked ONNX graph.

    source: the file's name, for messages. model: functions inlined, weights inside, one opset an operator set.
    nodes: inputs before users. constants: initialisers by name. image: the one input that is not an initialiser.
    content: the file's own bytes, unpacked; folder: where it lies.
    """

    source: str
    content: bytes
    folder: Path
    model: onnx.ModelProto
    opset: int
    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, Array]
    image: onnx.ValueInfoProto
    outputs: tuple[str, ...]

    @property
    def metadata(self) -> dict[str, str]:
        """The file's own key-value pairs."""
        return {p.key: p.value for p in self.model.metadata_props}


def read(path: Path) -> Graph:
    """The graph of an `.onnx` or `.onnx.gz` file.

    Raises InvalidInput where the file cannot be read as ONNX, UnsupportedModel where llcert cannot use what it says.
    """
    source = path.name
    content = _content(path)
    model = _parse(content, source)
    opset = _one_opset(model, source)
    _check_tables(model, source)
    load_external(model, path.parent, source)
    model = inlined(model, opset, source, most=_MOST_NODES)
    order = _in_order(model.graph, source)
    del model.graph.node[:]
    model.graph.node.extend(order)
    _check_schema(model, source)
    constants = {t.name: initialiser(t, source) for t in model.graph.initializer if t.data_type != TensorProto.STRING}
    images = [i for i in model.graph.input if i.name not in constants]
    if len(images) != 1:
        names = ", ".join(repr(i.name) for i in images) or "none"
        raise UnsupportedModel(f"{source}: llcert certifies networks with one image as input; this one has {names}")
    return Graph(
        source=source,
        content=content,
        folder=path.parent.resolve(),
        model=model,
        opset=opset,
        nodes=tuple(model.graph.node),
        constants=MappingProxyType(constants),
        image=images[0],
        outputs=tuple(o.name for o in model.graph.output),
    )


def where(source: str, node: onnx.NodeProto, opset: int) -> str:
    """How messages name a node."""
    name = node.name or next((o for o in node.output if o), "")
    domain = f"{node.domain}." if node.domain not in STANDARD_DOMAINS else ""
    return f"{source}: node {name!r} ({domain}{node.op_type}, opset {opset})"


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidInput(f"{path.name}: larger than 2 GB, which no ONNX file can be; use external data")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error})") from None
    return _unpacked(data, path.name) if data[:2] == b"\x1f\x8b" else data


def _unpacked(data: bytes, source: str) -> bytes:
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = inflater.decompress(data, _LARGEST_FILE)
    except zlib.error as error:
        raise InvalidInput(f"{source}: broken gzip file ({error})") from None
    if not inflater.eof:
        raise InvalidInput(f"{source}: broken gzip file (cut short, or larger than 2 GB unpacked)")
    return content


def _parse(data: bytes, source: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
        _touch_names(model.graph)
    except Exception as error:  # protobuf has errors of its own, and decodes text when it is read
        raise InvalidInput(f"{source}: not an ONNX file, or a damaged one ({type(error).__name__})") from None
    if not model.HasField("graph") or not model.graph.node:
        raise InvalidInput(f"{source}: not an ONNX file, or one without a graph")
    return model


def _touch_names(graph: onnx.GraphProto) -> None:
    """Reads every name once: text that is not UTF-8 shows up only when it is read. Raises ValueError."""
    for node in graph.node:
        if not (node.op_type + node.domain).isprintable():
            raise ValueError("an operator has no printable name")
        _ = node.name, list(node.input), list(node.output)
        for attribute in node.attribute:
            _ = attribute.name, attribute.ref_attr_name
    for tensor in graph.initializer:
        _ = tensor.name
    for value in (*graph.input, *graph.output):
        _ = value.name, [d.dim_param for d in value.type.tensor_type.shape.dim]


def _one_opset(model: onnx.ModelProto, source: str) -> int:
    """The opset of the standard operators; drops imports that repeat one another."""
    imports: dict[str, set[int]] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in STANDARD_DOMAINS else entry.domain
        imports.setdefault(domain, set()).add(entry.version)
    for domain, versions in imports.items():
        if len(versions) > 1:
            raise UnsupportedModel(f"{source}: imports {domain or 'ai.onnx'} in versions {sorted(versions)}; keep one")
    if "" not in imports:
        raise UnsupportedModel(f"{source}: names no opset of the standard operators")
    (opset,) = imports[""]
    newest = onnx.defs.onnx_opset_version()
    if opset < OLDEST_OPSET:
        raise UnsupportedModel(
            f"{source}: opset {opset} is older than {OLDEST_OPSET}; update it with onnx.version_converter"
        )
    if opset > newest:
        raise UnsupportedModel(f"{source}: opset {opset} is newer than {newest}, the newest the installed onnx knows")
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, (v,) in imports.items())
    return opset


def _check_tables(model: onnx.ModelProto, source: str) -> None:
    graph = model.graph
    attributes = (a for n in all_nodes(model) for a in n.attribute)
    if any(g.sparse_initializer for g in all_graphs(model)) or any(a.type in _SPARSE for a in attributes):
        raise UnsupportedModel(f"{source}: has sparse constants; store the weights as dense tensors")
    if not graph.output:
        raise UnsupportedModel(f"{source}: has no output")
    for kind, names in (
        ("initialisers", [t.name for t in graph.initializer]),
        ("inputs", [i.name for i in graph.input]),
        ("outputs", [o.name for o in graph.output]),
        ("metadata entries", [p.key for p in model.metadata_props]),
        *((f"attributes of node {n.name or n.op_type!r}", [a.name for a in n.attribute]) for n in all_nodes(model)),
    ):
        repeated = _first_repeated(names)
        if repeated is not None:
            raise UnsupportedModel(f"{source}: two {kind} are called {repeated!r}")


def _first_repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _in_order(graph: onnx.GraphProto, source: str) -> list[onnx.NodeProto]:
    """The nodes, inputs before users; refuses cycles, names defined twice and names nobody defines."""
    if len(graph.node) > _MOST_NODES:
        raise UnsupportedModel(f"{source}: {len(graph.node)} nodes are more than llcert allows")
    nodes = needed(graph)
    known = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    producer = _producers(nodes, known, source)
    waiting, users = [0] * len(nodes), [list[int]() for _ in nodes]
    for i, node in enumerate(nodes):
        for name in reads(node):
            if name in producer:
                waiting[i] += 1
                users[producer[name]].append(i)
            elif name not in known:
                place = f"{source}: node {node.name or node.op_type!r}"
                raise UnsupportedModel(_DANGLING.format(where=place, name=name))
    for output in graph.output:
        if output.name not in producer and output.name not in known:
            raise UnsupportedModel(f"{source}: nothing in the file produces its output {output.name!r}")
    ready = deque(i for i, count in enumerate(waiting) if count == 0)
    order: list[onnx.NodeProto] = []
    while ready:
        i = ready.popleft()
        order.append(nodes[i])
        for user in users[i]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if len(order) < len(nodes):
        stuck = next(n for n, count in zip(nodes, waiting, strict=True) if count)
        raise UnsupportedModel(f"{source}: node {stuck.name or stuck.op_type!r} depends on its own output")
    return order


def _producers(nodes: list[onnx.NodeProto], known: set[str], source: str) -> dict[str, int]:
    """The position of the node that computes each value. known: names of inputs and weights."""
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer or name in known:
                raise UnsupportedModel(f"{source}: two values are called {name!r}")
            producer[name] = i
    return producer


def needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on; whatever else a file holds, no runtime computes."""
    makers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.node):
        for name in node.output:
            makers.setdefault(name, []).append(i)
    wanted, stack = set[int](), [o.name for o in graph.output]
    while stack:
        for i in makers.get(stack.pop(), ()):
            if i not in wanted:
                wanted.add(i)
                stack.extend(reads(graph.node[i]))
    return [node for i, node in enumerate(graph.node) if i in wanted]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every name a node reads, also from inside its branches."""
    stack = [(node, frozenset[str]())]
    while stack:
        current, inner = stack.pop()
        yield from (n for n in current.input if n and n not in inner)
        for attribute in current.attribute:
            for graph in (attribute.g, *attribute.graphs):
                own = inner | {t.name for t in graph.initializer} | {i.name for i in graph.input}
                own |= {o for n in graph.node for o in n.output}
                stack.extend((n, own) for n in graph.node)


def _number(name: str) -> onnx.ValueInfoProto:
    """A declaration the checker accepts; it compares no types."""
    return onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [])


def _check_schema(model: onnx.ModelProto, source: str) -> None:
    """Nothing, where every node has the inputs and attributes its operator allows; the weights stay out of it."""
    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    skeleton.graph.name = model.graph.name or "graph"
    skeleton.graph.node.extend(model.graph.node)
    known = dict.fromkeys(v.name for v in (*model.graph.input, *model.graph.initializer))
    skeleton.graph.input.extend(_number(name) for name in known)
    skeleton.graph.output.extend(_number(o.name) for o in model.graph.output)
    try:
        onnx.checker.check_model(skeleton)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UnsupportedModel(f"{source}: not a valid ONNX model ({lines[0][:200]})") from None
