"""Does the imported network compute what the file says? Asked of onnxruntime; onnx2torch gives a second opinion."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.normalise import Graph, read, reads
from llcert.ir import Network, evaluate_as_run

TOLERANCE = 1e-4
"""The largest relative difference between the network and the file's own runtime that is rounding."""

_PIXELS, _WIDE = 4, 4
_TOO_NEW = "official released onnx opset"
"""What onnxruntime says of an opset that is newer than itself."""

_NEWEST_FOR_RUNTIMES = 10
"""The file format version every supported onnxruntime reads; newer ones add nothing that a checked graph uses."""

Array = npt.NDArray[Any]
Runtime = Callable[[Array], Array]


@dataclass(frozen=True)
class Agreement:
    """How far a network agrees with another implementation.

    difference: largest Euclidean distance of two logit vectors, relative to the largest of the other's vectors,
    dimensionless; None where it was not measured. runtime: the other implementation. images: how many were compared.
    """

    difference: float | None
    runtime: str
    images: int

    @property
    def sentence(self) -> str:
        """What a report says about it."""
        if self.difference is None:
            return f"not compared with {self.runtime}, which is not installed"
        return f"agrees with {self.runtime} to {self.difference:.1e} (relative) on {self.images} inputs"


def check(network: Network, path: str | Path, images: Tensor | None = None) -> Agreement:
    """How far a loaded network agrees with onnxruntime on its own file.

    images: `[images, *input shape]` as the file wants them (behind any adaptation); None for seeded random ones.
    Raises UnsupportedModel where the relative difference is above 1e-4, or the runtime cannot run the file.
    """
    return compare(network, read(Path(path)), images)


def compare(network: Network, graph: Graph, images: Tensor | None = None) -> Agreement:
    """`check` on a file that was read before."""
    inputs = (_random_inputs(network) if images is None else images).to(network.input.dtype)
    if tuple(inputs.shape[1:]) != network.input.shape:
        raise InvalidInput(f"{graph.source}: images {tuple(inputs.shape[1:])} do not fit input {network.input.shape}")
    runtime, run = _runtime(graph, network)
    if run is None:
        return Agreement(None, runtime, 0)
    theirs = _one_by_one(run, inputs.numpy(), _foreign_shape(graph, network), graph.source)
    if theirs.shape[1] != network.classes:
        raise UnsupportedModel(
            f"{graph.source}: {runtime} computes {theirs.shape[1]} values for one image, llcert {network.classes}; "
            "a batch size other than one is baked into the file"
        )
    if not np.isfinite(theirs).all():
        raise UnsupportedModel(f"{graph.source}: its logits are NaN or infinite (by {runtime}); its weights are broken")
    agreement = Agreement(_difference(network, inputs, theirs), runtime, len(inputs))
    if not _within(agreement):
        raise UnsupportedModel(
            f"{graph.source}: llcert and {runtime} disagree by {agreement.difference:.1e} (relative, allowed "
            f"{TOLERANCE:.0e}): the file computes with its batch size, or the import is wrong; please report it"
        )
    return agreement


def noted(network: Network, graph: Graph) -> Network:
    """The network with a note on how far it agrees with onnxruntime on random inputs; raises as `check` does."""
    return dataclasses.replace(network, notes=(*network.notes, compare(network, graph).sentence))


def second_opinion(network: Network, path: str | Path, images: Tensor | None = None) -> Agreement:
    """How far a loaded network agrees with onnx2torch's conversion of its file; images as for `check`.

    Raises UnsupportedModel, in one line, where onnx2torch cannot be imported or cannot convert the file.
    """
    graph = read(Path(path))
    convert = _onnx2torch(graph.source)
    inputs = (_random_inputs(network) if images is None else images).to(network.input.dtype)
    shape = _foreign_shape(graph, network)
    model = _cut(graph, network)

    def run(array: Array) -> Array:
        with torch.no_grad():
            logits: Tensor = module(torch.from_numpy(array))
        return logits.numpy()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = convert(model).eval()
            theirs = _one_by_one(run, inputs.numpy(), shape, graph.source)
    except Exception as error:  # onnx2torch raises KeyError, NotImplementedError, torch's and its own errors
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedModel(f"{graph.source}: onnx2torch cannot convert or run it ({lines[0][:160]})") from None
    return Agreement(_difference(network, inputs, theirs), "onnx2torch", len(inputs))


def _onnx2torch(source: str) -> Callable[[onnx.ModelProto], torch.nn.Module]:
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
    converter: Callable[[onnx.ModelProto], torch.nn.Module] = convert
    return converter


def _within(agreement: Agreement) -> bool:
    return agreement.difference is not None and agreement.difference <= TOLERANCE


def _random_inputs(network: Network) -> Tensor:
    """Seeded inputs `[images, *shape]`: some like pixels, some far wider, so that every threshold is crossed."""
    generator = torch.Generator().manual_seed(0)
    shape = network.input.shape
    pixels = torch.rand(_PIXELS, *shape, generator=generator)
    return torch.cat((pixels, 3 * torch.randn(_WIDE, *shape, generator=generator)))


def _difference(network: Network, inputs: Tensor, theirs: Array) -> float:
    """NaN where either side has one."""
    with torch.no_grad():
        ours = torch.cat([evaluate_as_run(network.output, image) for image in inputs.split(1)]).double()
    other = torch.from_numpy(np.ascontiguousarray(theirs)).double()
    if other.shape != ours.shape:
        return math.nan
    largest = float(torch.linalg.vector_norm(other, dim=1).max())
    distance = float(torch.linalg.vector_norm(ours - other, dim=1).max())
    return distance if largest == 0 else distance / largest


def _foreign_shape(graph: Graph, network: Network) -> tuple[int, ...]:
    """The shape of one image in the file, its batch axis included where it has one."""
    dims = graph.image.type.tensor_type.shape.dim
    shape = network.input.shape
    batch = (max(dims[0].dim_value, 1), *[1] * (len(dims) - len(shape) - 1))
    return shape if len(dims) == len(shape) else batch + shape


def _one_by_one(run: Runtime, inputs: Array, shape: tuple[int, ...], source: str) -> Array:
    """The logits `[images, classes]`, image by image: a batch size of one may be baked in."""
    try:
        rows = shape[0] if len(shape) > inputs.ndim - 1 else 1
        answers = (run(np.ascontiguousarray(np.repeat(image[None], rows, 0)).reshape(shape)) for image in inputs)
        return np.stack([np.ravel(answer[:1] if rows > 1 else answer) for answer in answers])
    except ValueError as error:
        raise UnsupportedModel(f"{source}: its own runtime returns values of differing shapes ({error})") from None


def _cut(graph: Graph, network: Network) -> onnx.ModelProto:
    """The file's model with the logits as its one output, and without what comes behind them."""
    needed, kept = {network.output_name}, list[onnx.NodeProto]()
    for node in reversed(graph.nodes):
        if needed.intersection(o for o in node.output if o):
            kept.append(node)
            needed.update(reads(node))
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    del model.graph.output[:]
    model.graph.output.append(_declared(network))
    del model.graph.value_info[:]
    model.ir_version = min(model.ir_version, _NEWEST_FOR_RUNTIMES)
    return model


def _declared(network: Network) -> onnx.ValueInfoProto:
    """The output as the runtimes want it declared: its type, no shape."""
    info = onnx.ValueInfoProto(name=network.output_name)
    wide = network.output.dtype == torch.float64
    info.type.tensor_type.elem_type = TensorProto.DOUBLE if wide else TensorProto.FLOAT
    return info


def _runtime(graph: Graph, network: Network) -> tuple[str, Runtime | None]:
    """The name of the runtime and how to run one image in it; None where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime", None
    name, model = f"onnxruntime {onnxruntime.__version__}", _cut(graph, network)
    session = _session(graph, model)
    if session is None and _elem_type(model) == TensorProto.DOUBLE:
        name, model = f"{name} in float32", in_single_precision(model)
        session = _session(graph, model)
    if session is None:
        return "the onnx reference implementation (onnxruntime lacks what the file needs)", _reference(graph, model)
    return name, _running(graph, model, session, network.output_name)


def _reference(graph: Graph, model: onnx.ModelProto) -> Runtime:
    """onnx's own slow implementation."""
    from onnx.reference import ReferenceEvaluator

    def run(image: Array) -> Array:
        try:
            results: Any = ReferenceEvaluator(model).run(None, {graph.image.name: image})
        except Exception as error:  # raises whatever numpy or its own code does
            raise _cannot_run(graph, error) from None
        return np.asarray(results[0])

    return run


def _session(graph: Graph, model: onnx.ModelProto) -> Any:
    """An onnxruntime session; None where it has no kernel in the model's precision, or does not know its opset."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return None
    except Exception as error:  # onnxruntime's own exceptions share no base class
        if _TOO_NEW in str(error):
            return None
        raise _cannot_run(graph, error) from None


def _running(graph: Graph, model: onnx.ModelProto, session: Any, output: str) -> Runtime:
    """How a session runs one image."""
    dtype = np.float64 if _elem_type(model) == TensorProto.DOUBLE else np.float32

    def run(image: Array) -> Array:
        try:
            results: list[Array] = session.run([output], {graph.image.name: image.astype(dtype)})
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise _cannot_run(graph, error) from None
        return results[0]

    return run


def _elem_type(model: onnx.ModelProto) -> int:
    named = {t.name for t in model.graph.initializer}
    return next(i.type.tensor_type.elem_type for i in model.graph.input if i.name not in named)


def in_single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without functions in which every float64 is a float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graphs = [copy.graph]
    while graphs:
        graph = graphs.pop()
        for tensor in graph.initializer:
            _make_single(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in (a for node in graph.node for a in node.attribute):
            if attribute.HasField("t"):
                _make_single(attribute.t)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT
    return copy


def _make_single(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.DOUBLE:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _cannot_run(graph: Graph, error: Exception) -> UnsupportedModel:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UnsupportedModel(f"{graph.source}: its own runtime cannot run it ({lines[0][:200]}); export it again")
