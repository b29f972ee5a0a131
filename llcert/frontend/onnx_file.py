"""The ONNX door: files become networks, networks become files."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from llcert.errors import UnsupportedModel
from llcert.frontend.literal import Literal, Reading, Walk, readings
from llcert.frontend.normalise import Graph, read
from llcert.frontend.original import original_of
from llcert.frontend.writer import save
from llcert.ir import Network, Node, Op, topological
from llcert.passes import canonicalise, check_legal, notes_of, strip_head

__all__ = ["load", "save"]

PREFIX = "llcert."
"""In front of the metadata keys that are ours."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a file says. reading: how its input is meant. output: the logits; name: theirs in the file.

    heads: of each output, what was removed.
    """

    graph: Graph
    reading: Reading
    output: Node
    name: str
    heads: tuple[tuple[Op, ...], ...]


def load(path: str | Path) -> Network:
    """The classifier an `.onnx` or `.onnx.gz` file holds, its image without batch axis, its output the logits.

    It has not been compared with the file yet. Raises InvalidInput where the file cannot be read, UnsupportedModel
    where llcert cannot represent it, or onnxruntime cannot run it.
    """
    found = opened(Path(path))
    graph = found.graph
    canonical = _packed(canonicalise(found.output))
    check_legal(canonical, f"{graph.source} (opset {graph.opset})")
    original = original_of(graph, found.reading, found.name, canonical)
    notes = tuple(dict.fromkeys(note for heads in found.heads for note in notes_of(heads)))
    return Network(
        output=canonical,
        input_name=graph.image.name,
        output_name=found.name,
        metadata={k.removeprefix(PREFIX): v for k, v in graph.metadata.items() if k.startswith(PREFIX)},
        notes=notes if original else (*notes, _NOT_COMPARED),
        source=str(path),
        heads=found.heads,
        original=original,
    )


_NOT_COMPARED = "not compared with onnxruntime, which is not installed"


def opened(path: Path) -> Read:
    """The first reading of a file that works; raises what stopped the one that came farthest.

    A reading that came to the end, but not to logits, counts least: the file is meant in another way.
    """
    graph = read(path)
    refusals: list[tuple[int, UnsupportedModel]] = []
    for reading in readings(graph):
        walk = Walk(graph, reading)
        try:
            return Read(graph, reading, *_logits(graph, walk()))
        except UnsupportedModel as refusal:
            ended = walk.done == len(graph.nodes)
            refusals.append((-1 if ended else walk.done, refusal))
    raise max(refusals, key=lambda found: found[0])[1]


def _packed(output: Node) -> Node:
    """The same network with every parameter contiguous: rounding depends on how a matrix lies in memory."""
    new: dict[Node, Node] = {}
    for node in topological(output):
        tensors = {k: t.contiguous() for k, t in node.op.tensors().items()}
        op = dataclasses.replace(node.op, **tensors) if tensors else node.op  # type: ignore[type-var]
        new[node] = dataclasses.replace(node, op=op, inputs=tuple(new[i] for i in node.inputs))
    return new[output]


def _logits(graph: Graph, found: Literal) -> tuple[Node, str, tuple[tuple[Op, ...], ...]]:
    """The one value all outputs are a head of, `(classes,)`, its name in the file, and what was removed."""
    stripped = [strip_head(output) for output in found.outputs]
    names = [found.name_of(node) for node, _ in stripped]
    if len(set(names)) > 1:
        listed = ", ".join(repr(o) for o in graph.outputs)
        raise UnsupportedModel(
            f"{graph.source}: has {len(names)} outputs ({listed}); llcert certifies one classifier: "
            "keep the logits alone (onnx.utils.extract_model)"
        )
    shape = found.values[names[0]].shape
    if math.prod(shape) != max(shape, default=1):
        raise UnsupportedModel(f"{graph.source}: output {names[0]!r} has shape {shape}, not one number a class")
    return stripped[0][0], names[0], tuple(heads for _, heads in stripped)
