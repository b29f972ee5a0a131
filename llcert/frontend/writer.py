"""Networks as ONNX files that onnxruntime runs, other tools load, and llcert reads back bit for bit."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import llcert.ops  # noqa: F401  (registers the exporters)
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.ir import Input, Network, Node, place, topological
from llcert.ops.registry import exporters

OPSET = 17
"""Old enough for every onnxruntime since 2022 and for onnx2torch, new enough for all llcert writes."""

_IR_VERSION = 8
_LARGEST_FILE = 2**31 - 1
_FLOATS = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}


def save(network: Network, path: str | Path) -> None:
    """Writes the network as one self-contained ONNX file, replacing the file only once it is complete.

    The batch axis is free; input, output and metadata keep their names; every value is in its own format, and so are
    its parameters, rounded where it does not hold them (1/std of a given normalisation). Raises UnsupportedModel where
    an operator has no ONNX spelling or the file would pass 2 GB, InvalidInput where it cannot be written.
    """
    path = Path(path)
    model = to_model(network)
    if model.ByteSize() > _LARGEST_FILE:
        raise UnsupportedModel(f"{path.name}: would be larger than 2 GB, which an ONNX file cannot be")
    onnx.checker.check_model(model)
    _replace(path, model.SerializeToString(deterministic=True))


def to_model(network: Network) -> onnx.ModelProto:
    """The network as an ONNX model, every parameter in the format of the value it makes."""
    output = place(network.output, "cpu")
    builder = _Builder(network.input_name, network.output_name)
    names: dict[Node, str] = {}
    for node in topological(output):
        if isinstance(node.op, Input):
            names[node] = network.input_name
            continue
        exporter = exporters.get(type(node.op))
        if exporter is None:
            raise UnsupportedModel(f"{type(node.op).__name__} {node.name!r} has no ONNX spelling")
        builder.dtype = node.dtype
        names[node] = exporter(node.op, builder, [names[i] for i in node.inputs], node)
    builder.finish(names[output])
    images, logits = (
        helper.make_tensor_value_info(name, _FLOATS[node.dtype], ["batch", *node.shape])
        for name, node in ((network.input_name, network.input), (network.output_name, output))
    )
    graph = helper.make_graph(builder.nodes, "llcert", [images], [logits], builder.initialisers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="llcert"
    )
    helper.set_model_props(model, {f"llcert.{k}": v for k, v in network.metadata.items()})
    return model


class _Builder:
    """Collects nodes and initialisers under unique names; the OnnxBuilder that exporters see.

    dtype: of the value that is being written.
    """

    def __init__(self, input_name: str, output_name: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[TensorProto] = []
        self._output = output_name
        self.dtype = torch.float32
        self._taken = {input_name, output_name, ""}

    def add(self, kind: str, inputs: Sequence[str], *, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        results = [self._unique(f"{name or kind}_{kind}" if name else kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), results, name=results[0], **attributes))
        return results[0]

    def constant(self, value: Tensor, *, name: str = "") -> str:
        unique = self._unique(name or "constant")
        array = value.detach().cpu().contiguous().numpy()
        self.initialisers.append(numpy_helper.from_array(array, unique))
        return unique

    def number(self, value: float) -> str:
        return self.constant(torch.tensor(value, dtype=self.dtype))

    def finish(self, result: str) -> None:
        """Gives the value `result` the name of the network's output."""
        producer = next((n for n in self.nodes if result in n.output), None)
        if producer is None:
            self.nodes.append(helper.make_node("Identity", [result], [self._output], name=self._output))
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                renamed = [self._output if n == result else n for n in names]
                del names[:]
                names.extend(renamed)

    def _unique(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            name, count = f"{wanted}_{count}", count + 1
        self._taken.add(name)
        return name


def _replace(path: Path, content: bytes) -> None:
    """Writes next to the file and renames, so that a reader sees the old or the new file and nothing between."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            part = Path(file.name)
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                part.chmod(0o644)
                part.replace(path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    part.unlink()
                raise
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written ({error.strerror or error})") from None
