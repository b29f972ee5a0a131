"""An ONNX file as onnxruntime runs it: its own bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.frontend.literal import Reading
from llcert.frontend.nested import all_graphs, all_nodes
from llcert.frontend.normalise import Graph, needed
from llcert.frontend.rule_inputs import Array
from llcert.frontend.runtime import onnxruntime, session
from llcert.ir import Node, Original, topological

_TOO_NEW = "official released onnx opset"
"""What onnxruntime says of an opset that is newer than itself."""

_NEW_FORMAT, _OLD_FORMAT = "Unsupported model IR version", 10
"""What it says of a file format that is newer, and one that every supported version reads; a checked graph uses nothing
that newer ones add."""

_FORMATS = {False: TensorProto.FLOAT, True: TensorProto.DOUBLE}

_TIE = 1e-5
"""How far, relatively, rounding in a softmax may part two outputs whose logits are equal."""

RunModel = Callable[[Array], list[Any]]
"""Outputs of the model, the logits first."""


@dataclass(frozen=True, eq=False)
class InputLayout:
    """How a file takes its images. sizes: of the input's axes, the batch first if it is `batched`; None: free."""

    image: str
    sizes: tuple[int | None, ...]
    batched: bool

    @property
    def rows(self) -> int | None:
        """How many images a run takes; None: any number, if the file works that way."""
        return self.sizes[0] if self.batched else 1

    def arranged(self, images: Array) -> Array:
        """The images `[images, *shape]` of one run as its input."""
        own = tuple(n for n in self.sizes[self.batched :] if n is not None)
        return images.reshape((len(images), *own) if self.batched else own)


@dataclass(frozen=True, eq=False)
class OnnxOriginal(Original):
    """A file, its bytes as they are, but for the output `logits` where the file ends in something behind it."""

    content: bytes
    folder: str
    layout: InputLayout
    logits_name: str
    others: tuple[str, ...]
    classes: int
    source: str
    computes: torch.dtype
    optimised: bool = True
    single: bool = False

    @property
    def name(self) -> str:
        return f"onnxruntime {onnxruntime().__version__}{' in float32' if self.single else ''}"

    @property
    def dtype(self) -> torch.dtype:
        return self.computes

    @property
    def together(self) -> int:
        return self.layout.rows or 1

    @property
    def variants(self) -> tuple[Original, ...]:
        return (replace(self, optimised=False),) if self.optimised else ()

    def logits(self, images: Tensor) -> Tensor:
        array = images.detach().to("cpu", self.computes).numpy()
        answers = _in_runs(self._run, array, self.layout, self._together, self.source)
        return torch.from_numpy(_logits(answers, len(array), self.classes, self.source))

    @cached_property
    def _session(self) -> Any:
        return session(self.content, optimised=self.optimised, folder=self.folder)

    @cached_property
    def _together(self) -> bool:
        """Whether images may be run together: a batch of one may be baked into a file that leaves its size free."""
        return _works_together(self._run, self.layout, self.classes, self.computes)

    def _run(self, images: Array) -> list[Any]:
        try:
            found: list[Any] = self._session.run([self.logits_name, *self.others], {self.layout.image: images})
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise cannot_run(self.source, error) from None
        return found


@dataclass(frozen=True, eq=False)
class Reference(Original):
    """A file in onnx's own slow implementation, where onnxruntime lacks what it needs."""

    model: onnx.ModelProto
    layout: InputLayout
    classes: int
    source: str
    computes: torch.dtype

    @property
    def name(self) -> str:
        return "the onnx reference implementation (onnxruntime lacks what the file needs)"

    @property
    def dtype(self) -> torch.dtype:
        return self.computes

    @property
    def together(self) -> int:
        return self.layout.rows or 1

    def logits(self, images: Tensor) -> Tensor:
        array = images.detach().to("cpu", self.computes).numpy()
        answers = _in_runs(self._run, array, self.layout, False, self.source)
        return torch.from_numpy(_logits(answers, len(array), self.classes, self.source))

    @cached_property
    def _evaluator(self) -> Any:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(self.model)

    def _run(self, images: Array) -> list[Any]:
        try:
            found: list[Any] = self._evaluator.run(None, {self.layout.image: images})
        except Exception as error:  # raises whatever numpy or its own code does
            raise cannot_run(self.source, error) from None
        return found


def original_of(graph: Graph, reading: Reading, logits: str, output: Node) -> Original | None:
    """The file as onnxruntime runs it; None where that is not installed. Raises UnsupportedModel where it cannot.

    logits: the name of the value that is the network's output; output: that.
    """
    if onnxruntime() is None:
        return None
    layout = InputLayout(graph.image.name, reading.sizes, reading.batched)
    classes, wide = output.shape[0], output.dtype == torch.float64
    dtype = torch.float64 if graph.image.type.tensor_type.elem_type == TensorProto.DOUBLE else torch.float32
    content, others = _with_output(graph, logits, wide=wide)
    made = OnnxOriginal(content, str(graph.folder), layout, logits, others, classes, graph.source, dtype)
    try:
        return _opened(made, graph.source)
    except _Lacking as lacking:
        if lacking.opset or all(n.dtype == torch.float32 for n in topological(output)):
            return Reference(cut(graph, logits, wide=wide), layout, classes, graph.source, dtype)
    single = in_single_precision(cut(graph, logits, wide=wide)).SerializeToString()
    return _opened(replace(made, content=single, others=(), computes=torch.float32, single=True), graph.source)


class _Lacking(Exception):
    """onnxruntime has no kernel for something in the file, or does not know its opset."""

    def __init__(self, *, opset: bool) -> None:
        self.opset = opset


def _opened(original: OnnxOriginal, source: str) -> OnnxOriginal:
    """The same, after both of its sessions were opened. Raises _Lacking, UnsupportedModel."""
    not_implemented = onnxruntime().capi.onnxruntime_pybind11_state.NotImplemented
    try:
        _ = original._session
        return original
    except not_implemented:
        raise _Lacking(opset=False) from None
    except Exception as error:  # onnxruntime's own exceptions share no base class
        if _TOO_NEW in str(error):
            raise _Lacking(opset=True) from None
        if _NEW_FORMAT not in str(error):
            raise cannot_run(source, error) from None
    model = onnx.load_model_from_string(original.content)
    if model.ir_version <= _OLD_FORMAT:
        raise cannot_run(source, ValueError(f"file format {model.ir_version}"))
    model.ir_version = _OLD_FORMAT
    return _opened(replace(original, content=model.SerializeToString()), source)


def _with_output(graph: Graph, logits: str, *, wide: bool) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes with the logits among its outputs, and what other outputs it has that are tensors.

    They are its own, but for nodes that nothing needs, which runtimes compute all the same, and an output added.
    """
    model = onnx.load_model_from_string(graph.content)
    kept = needed(model.graph)
    outputs = [o.name for o in model.graph.output]
    others = tuple(o.name for o in model.graph.output if o.name != logits and o.type.HasField("tensor_type"))
    if len(kept) == len(model.graph.node) and logits in outputs:
        return graph.content, others
    if logits not in outputs:
        if not any(logits in node.output for node in kept):
            raise UnsupportedModel(
                f"{graph.source}: its logits {logits!r} lie inside a local function, where nobody can look at them; "
                "inline it (onnx.inliner) or export without the last operator"
            )
        model.graph.output.add(name=logits).type.tensor_type.elem_type = _FORMATS[wide]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model.SerializeToString(), others


def cut(graph: Graph, logits: str, *, wide: bool) -> onnx.ModelProto:
    """The model as it was read, functions inlined and weights inside, with the logits as its one output.

    wide: whether these are float64 numbers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.add(name=logits).type.tensor_type.elem_type = _FORMATS[wide]
    kept = needed(model.graph)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.ir_version = min(model.ir_version, _OLD_FORMAT)
    return model


def _works_together(run: RunModel, layout: InputLayout, classes: int, dtype: torch.dtype) -> bool:
    """Whether a file that leaves the size of its batch free computes two images as it computes each alone."""
    if layout.rows is not None:
        return True
    own = tuple(n for n in layout.sizes[1:] if n is not None)
    two = torch.rand(2, *own, generator=torch.Generator().manual_seed(0)).to(dtype).numpy()
    try:
        together = np.asarray(run(layout.arranged(two))[0])
    except UnsupportedModel:
        return False
    alone = [np.asarray(run(layout.arranged(image[None]))[0]).ravel() for image in two]
    if together.size != 2 * classes:
        return False
    return bool(np.allclose(together.reshape(2, classes), np.stack(alone), rtol=1e-3, atol=1e-3, equal_nan=True))


def _in_runs(run: RunModel, images: Array, layout: InputLayout, together: bool, source: str) -> list[list[Array]]:
    """The outputs of runs over all images, each output an array `[images of the run, values]`."""
    rows = layout.rows or (max(len(images), 1) if together else 1)
    found = []
    for start in range(0, len(images), rows):
        part = images[start : start + rows]
        padded = np.concatenate([part, np.repeat(part[-1:], rows - len(part), 0)]) if len(part) < rows else part
        outputs = (np.asarray(o) for o in run(layout.arranged(np.ascontiguousarray(padded))))
        try:
            found.append([o.reshape(rows, -1)[: len(part)] for o in outputs])
        except ValueError:
            raise UnsupportedModel(f"{source}: its own runtime returns no {rows} answers for {rows} images") from None
    return found


def _logits(answers: Sequence[Sequence[Array]], count: int, classes: int, source: str) -> Array:
    """The logits `[images, classes]` in float64; NaN where another output answers otherwise."""
    if not answers:
        return np.zeros((0, classes))
    logits, *others = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    if logits.shape != (count, classes):
        raise UnsupportedModel(
            f"{source}: its own runtime computes {logits.shape[1]} values for one image, llcert {classes}; the file "
            "mixes the images of a batch, or the import is wrong; please report it"
        )
    answer = np.asarray(logits, np.float64)
    agree = [_agrees(answer, other) for other in others]
    return np.where(np.all([np.ones(count, bool), *agree], 0)[:, None], answer, np.nan)


def _agrees(logits: Array, other: Array) -> Array:
    """Whether another output has its largest value, or its label, where the logits have theirs, `[images]`."""
    best = logits.max(1, initial=-np.inf)
    if other.dtype.kind in "iu" and other.shape[1] == 1:
        label = np.clip(other[:, 0], 0, logits.shape[1] - 1)
        return (logits[np.arange(len(logits)), label] == best) & (label == other[:, 0])
    if other.dtype.kind == "f" and other.shape == logits.shape:
        own, highest = other[np.arange(len(other)), logits.argmax(1)], other.max(1)
        return np.asarray(own >= highest - _TIE * np.abs(highest))
    return np.ones(len(logits), bool)


def in_single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which every float64 is a float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in all_graphs(copy):
        for tensor in graph.initializer:
            _make_single(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (a for node in all_nodes(copy) for a in node.attribute):
        if attribute.HasField("t"):
            _make_single(attribute.t)
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.DOUBLE:
            attribute.i = TensorProto.FLOAT
    return copy


def _make_single(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.DOUBLE:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def cannot_run(source: str, error: Exception) -> UnsupportedModel:
    """The refusal of a file that its runtime does not run."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UnsupportedModel(f"{source}: its own runtime cannot run it ({lines[0][:200]}); export it again")
