"""Where runtimes differ from what one would write: slices beyond the front, empty axes, sizes in narrow types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_text import imported, noise
from torch import Tensor, nn

import llcert
from llcert.errors import UnsupportedModel
from llcert.ir import Network

FLOAT, DOUBLE, INT32, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64


def _saved(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    """A network of 6 inputs: `y = x W + b`, b what the nodes make of constants and of the shape of x."""
    weight = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    last = [helper.make_node("MatMul", ["x", "weight"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    kept = [numpy_helper.from_array(v, k) for k, v in {**constants, "weight": weight}.items()]
    value = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in (("x", ["n", 6]), ("y", None))]
    graph = helper.make_graph([*nodes, *last], "g", value[:1], value[1:], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def _answers_alike(path: Path) -> None:
    images = np.random.default_rng(1).random((4, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"x": images})[0])
    torch.testing.assert_close(llcert.load(path)(torch.from_numpy(images)), found)


@pytest.mark.parametrize("start", [-100, -5, -1, 0, 2, 4, 100])
@pytest.mark.parametrize("end", [-200, -4, -1, 0, 3, 100])
@pytest.mark.parametrize("step", [-2, -1, 1, 3])
def test_slices_of_constants_are_cut_as_the_runtime_cuts_them(start: int, end: int, step: int, tmp_path: Path) -> None:
    given = {"v": np.arange(1.0, 5.0, dtype=np.float32), "axes": np.array([0])}
    given |= {name: np.array([value]) for name, value in (("start", start), ("end", end), ("step", step))}
    nodes = [
        helper.make_node("Slice", ["v", "start", "end", "axes", "step"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["b"], keepdims=1),
    ]
    _answers_alike(_saved(tmp_path / "slice.onnx", nodes, given))


def test_no_axes_to_squeeze_are_all_of_them(tmp_path: Path) -> None:
    given = {"v": np.ones((1, 3, 1), np.float32), "axes": np.zeros(0, np.int64), "zero": np.array([0])}
    nodes = [
        helper.make_node("Squeeze", ["v", "axes"], ["s"]),
        helper.make_node("Shape", ["s"], ["shape"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Cast", ["rank"], ["b"], to=FLOAT),
    ]
    _answers_alike(_saved(tmp_path / "squeeze.onnx", nodes, given))


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE, INT32])
def test_sizes_are_computed_in_int64_alone(kind: int, tmp_path: Path) -> None:
    """Batch over batch is one in every type, three halves of it is not: narrow types wrap, fractions round."""
    numpy = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], end=1),
        helper.make_node("Cast", ["shape"], ["cast"], to=kind),
        helper.make_node("Mul", ["cast", "large"], ["scaled"]),
        helper.make_node("Div", ["scaled", "cast"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["b"], to=FLOAT),
    ]
    path = _saved(tmp_path / "sizes.onnx", nodes, {"large": np.array([3], numpy)})
    with pytest.raises(UnsupportedModel, match="batch"):
        llcert.load(path)


def test_products_of_sizes_beyond_int64_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], end=1),
        helper.make_node("Mul", ["shape", "large"], ["scaled"]),
        helper.make_node("Greater", ["scaled", "zero"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["b"], to=FLOAT),
    ]
    path = _saved(tmp_path / "sizes.onnx", nodes, {"large": np.array([2**62]), "zero": np.array([0])})
    with pytest.raises(UnsupportedModel, match="batch"):
        llcert.load(path)


class _Counting(nn.Module):
    """Answers otherwise at every call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        answer = self.layer(x) + self.calls
        self.calls.add_(1)
        return answer


def test_a_module_whose_forward_changes_it_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="calls"):
        llcert.from_torch(_Counting(), torch.zeros(1, 4))


def test_an_activation_of_one_number_an_image_is_loaded(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1), helper.make_node("Relu", ["m"], ["b"])]
    _answers_alike(_saved(tmp_path / "mean.onnx", nodes, {}))


ZEROS = {
    "windows of negative values": "z = Sub(x, one) p = Pad(z, pads) m = MaxPool<kernel_shape=[2,2]>(p)",
    "times one": "z = Sub(x, one) p = Pad(z, pads) q = Mul(p, one) m = MaxPool<kernel_shape=[2,2]>(q)",
    "over one": "z = Sub(x, one) p = Pad(z, pads) q = Div(p, one) m = MaxPool<kernel_shape=[2,2]>(q)",
    "plus zero": "z = Sub(x, one) p = Pad(z, pads) q = Add(p, zero) m = MaxPool<kernel_shape=[2,2]>(q)",
    "moved axes": "z = Sub(x, one) t = Transpose<perm=[0,2,3,1]>(z) p = Pad(t, last) u = Transpose<perm=[0,3,1,2]>(p) "
    "m = MaxPool<kernel_shape=[2,2]>(u)",
    "windows of nothing else": "z = Relu(x) p = Pad(z, pads) m = MaxPool<kernel_shape=[2,2], dilations=[5,5]>(p)",
    "a last window of largest": "z = Relu(x) p = Pad(z, pads) "
    "m = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(p)",
    "a last window of means": "p = Pad(x, pads) m = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(p)",
}


def _pooled(folder: Path, body: str) -> Network:
    constants = {
        "pads": torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]),
        "last": torch.tensor([0, 1, 1, 0, 0, 1, 1, 0]),
        "one": torch.tensor(1.0),
        "zero": torch.tensor(0.0),
        "w": noise(1, 3),
    }
    return imported(
        folder, f"{body} g = GlobalAveragePool(m) f = Flatten(g) y = MatMul(f, w)", constants, image="float[N,1,4,4] x"
    )


@pytest.mark.parametrize("name", ZEROS)
def test_zeros_in_front_of_a_pool_that_the_runtime_drops_are_refused(name: str, tmp_path: Path) -> None:
    """The file says 0 where the runtime's optimiser says what is largest without them, or makes other windows."""
    with pytest.raises(UnsupportedModel, match="behind a Pad with zeros"):
        _pooled(tmp_path, ZEROS[name])


@pytest.mark.parametrize(
    "body",
    [
        "z = Relu(x) p = Pad(z, pads) m = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)",
        "p = Pad(x, pads) m = AveragePool<kernel_shape=[2,2], strides=[2,2]>(p)",
    ],
)
def test_zeros_in_front_of_a_pool_that_change_nothing_are_read(body: str, tmp_path: Path) -> None:
    assert "agrees" in _pooled(tmp_path, body).notes[-1]


class _Alone(nn.Module):
    """Answers otherwise when it is given one image, which no graph traced with several shows."""

    def __init__(self, squeeze: bool) -> None:
        super().__init__()
        self.dense, self.squeeze = nn.Linear(6, 3), squeeze

    def forward(self, x: Tensor) -> Tensor:
        if self.squeeze:
            return self.dense(x).squeeze()
        return self.dense(x) if x.shape[0] > 1 else -self.dense(x)


def test_a_module_answers_one_image_as_it_answers_several() -> None:
    with pytest.raises(UnsupportedModel, match="one image at a time disagree"):
        llcert.from_torch(_Alone(squeeze=False).eval(), torch.zeros(2, 6))
    assert "agrees" in llcert.from_torch(_Alone(squeeze=True).eval(), torch.zeros(2, 6)).notes[-1]


@pytest.mark.parametrize(("to", "classes"), [("9", 3), ("3", 200), ("10", 3000)])
def test_labels_in_types_that_do_not_tell_them_apart_are_refused(to: str, classes: int, tmp_path: Path) -> None:
    body = f"h = MatMul(x, w) a = ArgMax<axis=1>(h) y = Cast<to={to}>(a)"
    with pytest.raises(UnsupportedModel, match=f"casts a label of {classes} classes"):
        imported(tmp_path, body, {"w": noise(6, classes)}, image="float[N,6] x")
