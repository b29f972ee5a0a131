"""What lies around the nodes of real files: packing, external data, batch axes, types, functions, outputs."""

from __future__ import annotations

import gzip
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_text import imported, noise, onnx_model, operators, written
from torch import Tensor

from llcert.api import load
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.onnx_file import save
from llcert.ir import Network

ROW = "float[N,12] x"
DENSE = {"w": noise(12, 5)}
HALVED = {"w2": DENSE["w"] / 2, "z": torch.zeros(5, 1)}
GEMM = "y = Gemm(x, w)"


def dense_model() -> onnx.ModelProto:
    return onnx_model(GEMM, DENSE, image=ROW)


def is_dense(network: Network) -> bool:
    images = noise(3, *network.input.shape)
    expected = images.flatten(1) @ DENSE["w"]
    return torch.allclose(network(images).flatten(1), expected, atol=1e-5)


def test_a_gzipped_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.gz"
    path.write_bytes(gzip.compress(dense_model().SerializeToString()))
    assert is_dense(load(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match=r"model\.onnx\.gz: broken gzip file"):
        load(path)


def with_external_data(location: str, *, offset: int = 0, length: int = 240) -> onnx.ModelProto:
    model = dense_model()
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.data").write_bytes(b"\0" * 64 + DENSE["w"].numpy().tobytes())
    network = load(written(tmp_path, with_external_data("weights/w.data", offset=64)))
    assert is_dense(network)
    save(network, tmp_path / "whole.onnx")
    (tmp_path / "weights" / "w.data").unlink()
    assert is_dense(load(tmp_path / "whole.onnx"))


@pytest.mark.parametrize("location", ["../w.data", "/etc/hostname", "", "sub/../../w.data", "link.data", "a\0b"])
def test_external_data_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(DENSE["w"].numpy().tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.data").symlink_to(tmp_path / "w.data")
    with pytest.raises(UnsupportedModel, match=r"model\.onnx: weights 'w'"):
        load(written(folder, with_external_data(location)))


@pytest.mark.parametrize(("offset", "length"), [(1, 240), (-4, 240), (0, 236), (0, 1 << 40)])
def test_external_data_of_another_size_is_refused(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(DENSE["w"].numpy().tobytes())
    with pytest.raises(InvalidInput, match=r"w\.data does not hold 240 bytes"):
        load(written(tmp_path, with_external_data("w.data", offset=offset, length=length)))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"weights 'w': gone\.data cannot be read"):
        load(written(tmp_path, with_external_data("gone.data")))


def test_initialisers_may_be_listed_as_inputs(tmp_path: Path) -> None:
    model = dense_model()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [12, 5]))
    assert is_dense(load(written(tmp_path, model)))


def test_repeated_and_unused_opset_imports_are_read(tmp_path: Path) -> None:
    model = dense_model()
    model.opset_import.extend([helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)])
    assert is_dense(load(written(tmp_path, model)))
    model.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    with pytest.raises(UnsupportedModel, match=r"imports ai\.onnx in versions \[13, 17\]"):
        load(written(tmp_path, model))


@pytest.mark.parametrize(("opset", "message"), [(6, "older than 7"), (999, "newer than")])
def test_opsets_out_of_range_are_refused(opset: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=rf"opset {opset} is {message}"):
        load(written(tmp_path, onnx_model(GEMM, DENSE, image=ROW, opset=opset)))


def test_the_newest_opset_is_read(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    network = load(written(tmp_path, onnx_model(GEMM, DENSE, image=ROW, opset=newest)))
    assert is_dense(network)
    assert "agrees with" in network.notes[-1]


@pytest.mark.parametrize("batch", ["N", "unk__6", "BatchSize", "b", "1", "-1"])
def test_the_batch_axis_may_be_free_or_one(batch: str, tmp_path: Path) -> None:
    model = onnx_model(GEMM, DENSE, image=ROW)
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch.lstrip("-").isdigit():
        axis.dim_value = int(batch)
    else:
        axis.dim_param = batch
    assert load(written(tmp_path, model)).input.shape == (12,)


def test_a_batch_axis_without_any_size_is_free(tmp_path: Path) -> None:
    model = onnx_model(GEMM, DENSE, image=ROW)
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    assert is_dense(load(written(tmp_path, model)))


@pytest.mark.parametrize(
    ("image", "body", "shape"),
    [
        ("float[1,12,1] x", "f = Flatten(x) y = Gemm(f, w)", (12, 1)),
        ("float[1,1,1,12] x", "f = Flatten(x) y = Gemm(f, w)", (1, 1, 12)),
        ("float[1,3,4] x", "f = Flatten<axis=0>(x) y = Gemm(f, w)", (3, 4)),
        ("float[12] x", "y = MatMul(x, w)", (12,)),
        ("float[12] x", "u = Unsqueeze<axes=[0]>(x) y = Gemm(u, w)", (12,)),
        ("float[3,4] x", "f = Flatten<axis=0>(x) y = Gemm(f, w)", (3, 4)),
        ("float[12,1] x", "t = Transpose<perm=[1,0]>(w) y = MatMul(t, x)", (12, 1)),
        ("float[12,1] x", "y = Gemm<transA=1>(x, w)", (12, 1)),
        ("float[12,1] x", "y = Gemm<transA=1, alpha=2.0, beta=0.5>(w2, x, z)", (12, 1)),
        ("float[1,12] x", "s = Squeeze<axes=[0]>(x) y = MatMul(s, w)", (12,)),
        ("float[1,12] x", "t = Transpose<perm=[1,0]>(w) u = Transpose<perm=[1,0]>(x) y = MatMul(t, u)", (12,)),
    ],
)
def test_batch_one_baked_in_or_no_batch_axis(image: str, body: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    network = imported(tmp_path, body, DENSE | HALVED, image=image, opset=11)
    assert network.input.shape == shape
    assert is_dense(network)


def test_convolutions_without_a_batch_axis(tmp_path: Path) -> None:
    body = "u = Unsqueeze<axes=[0]>(x) c = Conv(u, w) p = MaxPool<kernel_shape=[2,2]>(c) r = Relu(p) y = Flatten(r)"
    network = imported(tmp_path, body, {"w": noise(8, 3, 3, 3)}, image="float[3,8,8] x", opset=11)
    assert network.input.shape == (3, 8, 8)
    assert "Conv" in operators(network)


@pytest.mark.parametrize(
    ("image", "body", "constants"),
    [
        (
            "float[10,3,8,8] x",
            "c = Conv(x, w) y = Reshape(c, s)",
            {"w": noise(8, 3, 3, 3), "s": torch.tensor([10, -1])},
        ),
        ("float[10,12] x", "h = Gemm(x, w) y = Add(h, b)", {"w": noise(12, 5), "b": noise(1, 5).repeat(10, 1)}),
        ("float[10,12] x", "s = Shape(x) h = Reshape(x, s) y = Relu(h)", {}),
        ("float[10,12] x", "h = Expand(x, s) y = Relu(h)", {"s": torch.tensor([10, 12])}),
        (
            "float[10,12] x",
            "h = Slice(x, a, b, c) y = Relu(h)",
            {k: torch.tensor([n]) for k, n in (("a", 0), ("b", 10), ("c", 0))},
        ),
    ],
)
def test_a_larger_batch_baked_in_is_the_batch(
    image: str, body: str, constants: dict[str, Tensor], tmp_path: Path
) -> None:
    network = imported(tmp_path, body, constants, image=image)
    assert network.input.shape == tuple(int(n) for n in image[6 : image.index("]")].split(",")[1:])


@pytest.mark.parametrize(
    ("body", "constants", "message"),
    [
        (
            "h = Reshape(x, s) y = Reshape(h, t)",
            {"s": torch.tensor([5, -1]), "t": torch.tensor([10, 12])},
            "whose first axis is not the batch axis",
        ),
        (
            "h = Reshape(x, s) y = Reshape(h, t)",
            {"s": torch.tensor([1, 120]), "t": torch.tensor([10, 12])},
            "whose first axis is not the batch axis",
        ),
        ("y = Add(x, b)", {"b": noise(10, 12)}, "differs between images"),
        ("h = ReduceMean<axes=[0]>(x) y = Add(x, h)", {}, "works along the batch axis"),
        ("h = Transpose(x) y = Transpose(h)", {}, "moves the batch axis"),
        ("h = Flatten<axis=0>(x) y = Reshape(h, s)", {"s": torch.tensor([10, 12])}, "flattens the batch axis"),
        ("s = Shape(x) f = Cast<to=1>(s) g = ReduceSum(f) y = Add(x, g)", {}, "depends on how many images a batch has"),
    ],
)
def test_what_mixes_a_batch_baked_in_is_refused(
    body: str, constants: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        imported(tmp_path, body, constants, image="float[10,12] x")


def test_double_precision_is_kept(tmp_path: Path) -> None:
    weights = {"w": noise(8, 3, 3, 3).double(), "t": torch.tensor(0.5, dtype=torch.float64)}
    body = "c = Conv(x, w) r = Relu(c) m = Min(r, t) y = Flatten(m)"
    network = imported(tmp_path, body, weights, image="double[N,3,8,8] x")
    assert network.dtype == torch.float64
    assert operators(network) == "Conv ReLU-theta Reshape"
    save(network, tmp_path / "again.onnx")
    images = noise(2, 3, 8, 8).double()
    assert torch.equal(load(tmp_path / "again.onnx")(images), network(images))


@pytest.mark.parametrize("kind", ["float16", "uint8", "int64", "bfloat16"])
def test_other_input_types_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="input 'x': is not float32 or float64"):
        imported(tmp_path, "c = Cast<to=1>(x) y = Gemm(c, w)", DENSE, image=f"{kind}[N,12] x")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("float[N,3,H,W] x", "axis 2 has no fixed size"),
        ("float[N,0,8,8] x", "is not one of an image"),
        ("float[0,3,8,8] x", "is not one of an image"),
        ("float[N,3,100000,100000] x", "is not one of an image"),
        ("float[N,-3,8,8] x", "is not one of an image"),
        ("float[] x", "has no shape"),
        ("float x", "a single number"),
    ],
)
def test_input_shapes_that_are_no_image_are_refused(image: str, message: str, tmp_path: Path) -> None:
    model = onnx_model("y = Relu(x)", image=image.replace("-3", "3"))
    if "-3" in image:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -3
    with pytest.raises(UnsupportedModel, match=f"input 'x': .*{message}"):
        load(written(tmp_path, model))


def test_two_outputs_of_one_classifier_are_one(tmp_path: Path) -> None:
    body = "h = Gemm(x, w) p = Softmax(h) a = ArgMax<axis=1>(h) l = Cast<to=6>(a)"
    model = onnx_model(body, DENSE, image=ROW, outputs=("p", "int32[] l"))
    network = load(written(tmp_path, model))
    assert is_dense(network)
    assert len(network.notes) == 3


def test_a_known_condition_takes_its_branch(tmp_path: Path) -> None:
    body = (
        "s = Shape<start=1>(x) n = Constant<value_ints=[12]>() c = Equal(s, n) "
        "y = If<then_branch = a () => (float[M,5] p) {p = Gemm(x, w)}, "
        "else_branch = b () => (float[M,12] q) {q = Sign(x)}>(c)"
    )
    assert is_dense(imported(tmp_path, body, DENSE, image=ROW))


def test_a_zip_map_is_left_out(tmp_path: Path) -> None:
    body = "h = Gemm(x, w) p = Softmax(h)"
    model = onnx_model(body, DENSE, image=ROW, outputs=("y",), domains={"ai.onnx.ml": 3})
    labels = list(range(5))
    named = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(named))
    model.graph.node.append(helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=labels))
    assert is_dense(load(written(tmp_path, model)))


def test_several_outputs_and_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"has 2 outputs \('h', 'y'\)"):
        load(written(tmp_path, onnx_model("h = Gemm(x, w) y = Relu(h)", DENSE, image=ROW, outputs=("h", "y"))))
    with pytest.raises(UnsupportedModel, match="one image as input; this one has 'x', 'z'"):
        load(written(tmp_path, onnx_model("y = Add(x, z)", image=f"{ROW}, float[N,12] z")))


def test_outputs_that_are_no_logits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"output 'y' has shape \(3, 8, 8\), not one number a class"):
        imported(tmp_path, "y = Relu(x)")
    with pytest.raises(UnsupportedModel, match="one output alone"):
        imported(tmp_path, "y = ReduceSum(x, a)", {"a": torch.tensor([1])}, image=ROW)
    with pytest.raises(UnsupportedModel, match="output 'y' does not depend on the input"):
        imported(tmp_path, "y = Relu(w)", DENSE, image=ROW)


def test_metadata_with_our_prefix_is_read_and_written(tmp_path: Path) -> None:
    model = dense_model()
    helper.set_model_props(model, {"llcert.eps": "36/255", "llcert.mean": "0.5", "author": "somebody"})
    network = load(written(tmp_path, model))
    assert dict(network.metadata) == {"eps": "36/255", "mean": "0.5"}
    save(network, tmp_path / "again.onnx")
    assert dict(load(tmp_path / "again.onnx").metadata) == dict(network.metadata)


def test_a_dangling_value_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"uses 'mean', which nothing .* Keras's Normalization"):
        imported(tmp_path, "n = Sub(x, mean) y = Gemm(n, w)", DENSE, image=ROW)


def test_nodes_may_lie_in_any_order(tmp_path: Path) -> None:
    model = onnx_model("h = Gemm(x, w) r = Relu(h) y = Neg(r)", DENSE, image=ROW)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert operators(load(written(tmp_path, model))) == "Linear ReLU Affine"


def test_constants_of_several_types_are_read(tmp_path: Path) -> None:
    model = onnx_model("d = Cast<to=1>(w) y = Gemm(x, d)", image=ROW)
    model.graph.initializer.append(
        helper.make_tensor("w", TensorProto.BFLOAT16, [12, 5], DENSE["w"].flatten().tolist())
    )
    assert load(written(tmp_path, model)).output.shape == (5,)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    for bad in (float("nan"), float("inf")):
        weights = DENSE["w"].clone()
        weights[3, 2] = bad
        with pytest.raises(UnsupportedModel, match="initialiser 'w': holds NaN or infinite values"):
            imported(tmp_path, GEMM, {"w": weights}, image=ROW)


def test_an_infinite_bound_is_no_bound(tmp_path: Path) -> None:
    bounds = {"a": torch.tensor(0.0), "b": torch.tensor(float("inf"))}
    assert operators(imported(tmp_path, "y = Clip(x, a, b)", bounds, image=ROW)) == "ReLU"


def test_numbers_only_the_reader_could_overflow_on(tmp_path: Path) -> None:
    model = dense_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(DENSE["w"].numpy(), "w"))
    model.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(UnsupportedModel, match="initialiser 'w': its shape"):
        load(written(tmp_path, model))
