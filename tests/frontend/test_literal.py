"""Every value of a file, as a node, is what the ONNX reference computes; what does not depend on the image is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx_text import noise, onnx_model, written

from llcert.errors import UnsupportedModel
from llcert.frontend.literal import Literal, Reading, Walk, readings
from llcert.frontend.normalise import Graph, read
from llcert.ir import evaluate

BODY = """
    size = Shape(x)  two = Constant<value = int64[1] {2}>()
    scaled = Mul(w, w)  c = Conv<pads = [1, 1, 1, 1]>(x, scaled)
    r = Relu(c)  flat = Flatten(r)  y = MatMul(flat, v)
"""
CONSTANTS = {"w": noise(2, 3, 3, 3), "v": noise(2 * 8 * 8, 4, seed=1)}


def literal(path: Path) -> tuple[Graph, Literal]:
    """The first reading of a file."""
    graph = read(path)
    return graph, Walk(graph, readings(graph)[0])()


def reference(graph: Graph, name: str, images: np.ndarray) -> np.ndarray:
    """A value of a file by the reference implementation of ONNX."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info(name))
    (found,) = ReferenceEvaluator(model).run(None, {graph.image.name: images})
    return np.asarray(found)


def test_every_value_that_depends_on_the_image_is_that_of_the_file(tmp_path: Path) -> None:
    graph, found = literal(written(tmp_path, onnx_model(BODY, CONSTANTS)))
    assert set(found.values) == {"x", "c", "r", "flat", "y"}, "sizes and products of weights are constants"
    images = noise(2, 3, 8, 8, seed=2)
    for name, node in found.values.items():
        expected = torch.from_numpy(reference(graph, name, images.numpy()))
        torch.testing.assert_close(evaluate(node, images).reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
        assert found.name_of(node) == name
    assert found.outputs == (found.values["y"],)


def branches(condition: bool) -> onnx.ModelProto:
    """`y = relu(x) + b`, b = x or -x; both branches call their own value as the graph calls relu(x) later on."""
    parts = []
    for operator in ("Identity", "Neg"):
        inner = onnx_model(f"hidden = {operator}(x)", outputs=("hidden",)).graph
        del inner.input[:]
        parts.append(inner)
    model = onnx_model("hidden = Relu(x) y = Add(b, hidden)", {"yes": torch.tensor(condition)})
    choice = helper.make_node("If", ["yes"], ["b"], name="choice", then_branch=parts[0], else_branch=parts[1])
    model.graph.node.insert(0, choice)
    return model


@pytest.mark.parametrize("condition", [True, False])
def test_the_values_of_a_branch_stay_in_it(condition: bool, tmp_path: Path) -> None:
    _, found = literal(written(tmp_path, branches(condition)))
    images = noise(2, 3, 8, 8)
    torch.testing.assert_close(evaluate(found.values["y"], images), images.relu() + (images if condition else -images))
    torch.testing.assert_close(evaluate(found.values["hidden"], images), images.relu())


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("float[N,3,8,8] x", [(1, (3, 8, 8))]),
        ("float[1,3,8,8] x", [(1, (3, 8, 8)), (1, (1, 3, 8, 8))]),
        ("float[5,3] x", [(1, (5, 3)), (5, (3,))]),
        ("float[7] x", [(1, (7,))]),
    ],
)
def test_a_first_axis_that_is_free_or_one_is_the_batch(
    image: str, expected: list[tuple[int, tuple[int, ...]]], tmp_path: Path
) -> None:
    found: tuple[Reading, ...] = readings(read(written(tmp_path, onnx_model("y = Relu(x)", image=image))))
    assert [(r.batch, r.shape) for r in found] == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [("float[N,3,H] x", "axis 2 has no fixed size"), ("int64[N,3] x", "not float32"), ("float[N,0] x", "shape")],
)
def test_what_is_no_image_is_refused(image: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        readings(read(written(tmp_path, onnx_model("y = Relu(x)", image=image))))


def test_an_output_that_reads_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="output 'y' does not depend on the input"):
        literal(written(tmp_path, onnx_model("z = Relu(x) y = Mul(w, w)", {"w": noise(3)})))
