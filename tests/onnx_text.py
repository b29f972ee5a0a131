"""Small ONNX models written down as text, for tests of the ONNX door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import helper, numpy_helper, parser
from torch import Tensor

from llcert.api import load
from llcert.ir import Network


def onnx_model(
    body: str,
    constants: Mapping[str, Tensor] | None = None,
    *,
    image: str = "float[N,3,8,8] x",
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """The model whose nodes are `body` in ONNX's text form, from `image` to `outputs`; constants by name.

    outputs: names, or types and names such as `int64[] y`; without a type they have the image's.
    """
    own = "double" if image.startswith("double") else "float"
    results = ", ".join(name if " " in name else f"{own}[] {name}" for name in outputs)
    graph = parser.parse_graph(f"g ({image}) => ({results}) {{ {body} }}")
    graph.initializer.extend(
        numpy_helper.from_array(t.contiguous().numpy(), name) for name, t in (constants or {}).items()
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def written(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    """The path of the model, written into a folder."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def imported(
    folder: Path,
    body: str,
    constants: Mapping[str, Tensor] | None = None,
    *,
    image: str = "float[N,3,8,8] x",
    output: str = "y",
    opset: int = 17,
) -> Network:
    """The network such a model is read as, compared with onnxruntime on the way."""
    return load(written(folder, onnx_model(body, constants, image=image, outputs=(output,), opset=opset)))


def operators(network: Network) -> str:
    """The labels of the operators, in order."""
    return " ".join(n.op.label for n in network.operators())


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
