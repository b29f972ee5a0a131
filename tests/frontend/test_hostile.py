"""Broken and hostile files: one clear line each, or a network that agrees with onnxruntime; never anything else."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from mutations import mutated, seeds
from onnx import TensorProto, helper
from onnx_text import noise, onnx_model, written

from llcert.api import load
from llcert.errors import InvalidInput, LlcertError, UnsupportedModel
from llcert.frontend.onnx_file import load as read_file

FILES = 200
TOGETHER = 20


def test_the_files_are_valid_before_they_are_broken(tmp_path: Path) -> None:
    for model in seeds():
        assert "agrees with" in load(written(tmp_path, model)).notes[-1]


@pytest.mark.parametrize("first", range(0, FILES, TOGETHER))
def test_a_broken_file_ends_in_one_line_or_in_a_right_network(first: int, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    for seed in range(first, first + TOGETHER):
        path.write_bytes(mutated(seed))
        try:
            network = load(path)
        except LlcertError as refusal:
            message = str(refusal)
            assert message.startswith("broken.onnx"), seed
            assert message.isprintable(), seed
            assert len(message) < 500, seed
        else:
            assert "agrees with" in network.notes[-1], seed


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"\x1f\x8b", b"\x1f\x8b\x08\0\0", b"not onnx", b"\x08\x08", b"\xff" * 999]
)
def test_files_that_are_no_models(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"^model\.onnx: "):
        load(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"model\.onnx: cannot be read \(No such file"):
        read_file(tmp_path / "model.onnx")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_file(tmp_path)


def chain(length: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu" if i % 2 else "Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    image = helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 4])
    logits = helper.make_tensor_value_info(f"v{length}", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "chain", [image], [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_deep_graphs_are_read(tmp_path: Path) -> None:
    network = read_file(written(tmp_path, chain(3000)))
    assert sum(1 for _ in network.operators()) > 2000


def test_cycles_are_named(tmp_path: Path) -> None:
    model = chain(6)
    model.graph.node[2].input[0] = "v5"
    with pytest.raises(UnsupportedModel, match="depends on its own output"):
        load(written(tmp_path, model))


def test_names_given_twice_are_named(tmp_path: Path) -> None:
    model = chain(6)
    model.graph.node[3].output[0] = "v2"
    model.graph.node[4].input[0] = "v2"
    with pytest.raises(UnsupportedModel, match="two values are called 'v2'"):
        load(written(tmp_path, model))
    model = onnx_model("y = Gemm(x, w)", {"w": noise(12, 5)}, image="float[N,12] x")
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(UnsupportedModel, match="two initialisers are called 'w'"):
        load(written(tmp_path, model))


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = onnx_model("y = Gemm(x, w)", {"w": noise(11, 5)}, image="float[N,12] x")
    with pytest.raises(UnsupportedModel, match=r"node 'y' \(Gemm, opset 17\): its inputs and attributes do not fit"):
        load(written(tmp_path, model))


def test_messages_stay_on_one_line_whatever_things_are_called(tmp_path: Path) -> None:
    model = onnx_model("y = Sign(x)", image="float[N,12] x")
    model.graph.node[0].name = "two\nlines\x1b[31m"
    with pytest.raises(UnsupportedModel) as refusal:
        load(written(tmp_path, model))
    assert str(refusal.value).isprintable()
