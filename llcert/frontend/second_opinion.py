"""What onnx2torch makes of an ONNX file, where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from llcert.errors import UnsupportedModel
from llcert.frontend.onnx_file import opened
from llcert.frontend.original import InputLayout, cut
from llcert.ir import Original


@dataclass(frozen=True, eq=False)
class Converted(Original):
    """The module that onnx2torch converts a file to, in eval mode; run image by image."""

    module: nn.Module
    layout: InputLayout
    source: str
    computes: torch.dtype

    @property
    def name(self) -> str:
        return "onnx2torch"

    @property
    def dtype(self) -> torch.dtype:
        return self.computes

    @property
    def together(self) -> int:
        return self.layout.rows or 1

    def logits(self, images: Tensor) -> Tensor:
        rows = self.layout.rows or 1
        array = images.to("cpu", self.computes).numpy()
        runs = (np.ascontiguousarray(self.layout.arranged(np.repeat(image[None], rows, 0))) for image in array)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                return torch.stack([self.module(torch.from_numpy(run)).reshape(rows, -1)[0] for run in runs])
        except Exception as error:  # the converted module raises torch's and its own errors
            raise _failed(self.source, error) from None


def second_opinion(path: Path) -> Converted:
    """The file as onnx2torch reads it; raises UnsupportedModel, in one line, where it cannot."""
    found = opened(path)
    graph, reading = found.graph, found.reading
    convert, wide = _onnx2torch(graph.source), found.output.dtype == torch.float64
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = convert(cut(graph, found.name, wide=wide)).eval()
    except Exception as error:  # onnx2torch raises KeyError, NotImplementedError, torch's and its own errors
        raise _failed(graph.source, error) from None
    double = graph.image.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    layout = InputLayout(graph.image.name, reading.sizes, reading.batched)
    return Converted(module, layout, graph.source, torch.float64 if double else torch.float32)


def _failed(source: str, error: Exception) -> UnsupportedModel:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UnsupportedModel(f"{source}: onnx2torch cannot convert or run it ({lines[0][:160]})")


def _onnx2torch(source: str) -> Callable[[onnx.ModelProto], nn.Module]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from onnx2torch import convert
    except (ImportError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedModel(
            f"{source}: no second opinion, onnx2torch cannot be imported here ({lines[0][:120]}); "
            "it needs a torchvision built for the installed torch"
        ) from None
    converter: Callable[[onnx.ModelProto], nn.Module] = convert
    return converter
