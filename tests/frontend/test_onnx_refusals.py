"""What cannot be certified is refused by node name, operator and opset, with what would help."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch
from onnx import helper
from onnx_text import imported, noise, onnx_model, written

from llcert.api import load
from llcert.errors import UnsupportedModel

ROW = "float[N,12] x"

REFUSED = {
    "product": ("h = Tanh(x) y = Mul(x, h)", r"'y' \(Mul, opset 17\): multiplying two values"),
    "quotient": ("h = Sigmoid(x) y = Div(x, h)", r"'y' \(Div, opset 17\): dividing by two values"),
    "reciprocal": ("y = Div(one, x)", r"'y' \(Div, opset 17\): divides by a value of the image"),
    "by zero": ("y = Div(x, zero)", r"'y' \(Div, opset 17\): divides by zero"),
    "step": ("y = Sign(x)", r"'y' \(Sign, opset 17\): is a step function"),
    "thresholded relu": ("y = ThresholdedRelu(x)", r"ThresholdedRelu, opset 17\): is a step function"),
    "quantised activations": ("y = QuantizeLinear(x, one)", r"QuantizeLinear, opset 17\): rounds a value"),
    "layer norm": ("y = LayerNormalization(x, v)", r"LayerNormalization, opset 17\): .*not globally Lipschitz"),
    "instance norm": ("y = InstanceNormalization(m, v, v)", r"InstanceNormalization, opset 17\): .*Lipschitz"),
    "sort positions": ("v1, i = TopK(x, k) f = Cast<to=1>(i) y = Add(f, v1)", r"TopK, opset 17\): the positions"),
    "comparison": ("c = Greater(x, zero) y = Where(c, x, zero)", r"Greater, opset 17\): compares or selects"),
    "attention": ("t = Transpose<perm=[0,2,1]>(m) y = MatMul(m, t)", r"MatMul, opset 17\): multiplies two values"),
    "inner softmax": ("s = Softmax(x) y = Relu(s)", r"\(opset 17\): Head s: Softmax inside the network"),
    "power": ("y = Pow(x, one)", r"Pow, opset 17\): is a nonlinearity llcert has no rule for"),
    "integer cast": ("y = Cast<to=7>(x)", r"Cast, opset 17\): casts a value of the image to int64"),
    "half precision": (
        "h = Cast<to=10>(x) y = Cast<to=1>(h)",
        r"Cast, opset 17\): casts .* to float16",
    ),
    "training dropout": ("y, k2 = Dropout(x, one, yes)", r"Dropout, opset 17\): is in training mode"),
    "resize": ('y = Resize<mode="nearest">(m, , scales)', r"Resize, opset 17\): resizes images"),
    "batch sum": ("y = ReduceSum<keepdims=0>(x, axis0)", r"works along the batch axis"),
    "batch transposed": ("t = Transpose(x) y = MatMul(big, t)", r"Transpose, opset 17\): moves the batch axis"),
    "batch merged": ("y = Reshape(x, lines)", r"reshapes a value of shape \(12,\)"),
    "batch constants": ("y = Add(x, rows)", r"differs between images"),
    "unknown positions": (
        "i = ArgMax<axis=1>(x) y = Gather<axis=1>(m, i)",
        r"Gather, opset 17\): .*on the image",
    ),
    "computed padding": ("y = Pad(x, pads, huge)", r"Pad, opset 17\): pads with inf"),
    "window of padding": (
        "h = MaxPool<kernel_shape=[1], pads=[1,1]>(m) y = Flatten(h)",
        r"MaxPool, opset 17\): a window of 1 sees nothing but padding",
    ),
    "three axes": ("h = GlobalMaxPool(v5) y = Flatten(h)", r"pools over 3 axes"),
}
CONSTANTS = {
    "one": torch.tensor(1.0),
    "zero": torch.tensor(0.0),
    "huge": torch.tensor(float("inf")),
    "v": noise(12).abs(),
    "k": torch.tensor([2]),
    "yes": torch.tensor(True),
    "scales": torch.tensor([1.0, 1.0, 2.0]),
    "axis1": torch.tensor([1]),
    "axis0": torch.tensor([0]),
    "big": noise(5, 12),
    "rows": noise(4, 12),
    "lines": torch.tensor([-1, 4]),
    "pads": torch.tensor([0, 1, 0, 1]),
    "cells": torch.tensor([0, 3, 4]),
    "cube": torch.tensor([0, 1, 3, 2, 2]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_without_a_bound_is_refused_by_name(name: str, tmp_path: Path) -> None:
    body, message = REFUSED[name]
    body = f"m = Reshape(x, cells) v5 = Reshape(x, cube) {body}"
    model = onnx_model(body, CONSTANTS, image=ROW)
    with pytest.raises(UnsupportedModel, match=message) as refusal:
        load(written(tmp_path, model))
    assert str(refusal.value).startswith("model.onnx")
    assert "\n" not in str(refusal.value)


def test_operators_of_other_domains_are_refused(tmp_path: Path) -> None:
    model = onnx_model("y = Relu(x)", image=ROW, domains={"com.microsoft": 1})
    model.graph.node[0].CopyFrom(helper.make_node("FusedGelu", ["x"], ["y"], "gelu", domain="com.microsoft"))
    with pytest.raises(UnsupportedModel, match=r"node 'gelu' \(com\.microsoft\.FusedGelu, opset 1\): is not"):
        load(written(tmp_path, model))


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ("c = ConstantOfShape(s) y = Add(x, c)", "8000000000000"),
        ("c = Expand(one, s) y = Add(x, c)", "8000000000000"),
        ("c = Range(zero, far, one) y = Add(x, c)", "999999995904"),
        ("c = Tile(t, s) y = Add(x, c)", "8000000000000"),
        ("c = OneHot(t, far, v) y = Add(x, c)", "2999999987712"),
        ("c = Pad(t, p) y = Add(x, c)", "2000000000003"),
        ("a = Reshape(big, col) b = Mul(a, big) y = Add(x, b)", "40000000000"),
    ],
)
def test_constants_too_large_to_compute_are_refused(body: str, size: str, tmp_path: Path) -> None:
    constants = {
        "s": torch.tensor([20000] * 3),
        "one": torch.tensor(1.0),
        "zero": torch.tensor(0.0),
        "far": torch.tensor(1e12),
        "t": torch.ones(1, 1, 1) if "Tile" in body else torch.ones(3),
        "p": torch.tensor([10**12, 0]),
        "v": torch.tensor([0.0, 1.0]),
        "big": torch.ones(200000) if "big" in body else torch.ones(1),
        "col": torch.tensor([-1, 1]),
    }
    with pytest.raises(UnsupportedModel, match=f"computes a constant of {size}"):
        imported(tmp_path, body, constants, image=ROW)


def test_doubling_concatenations_are_refused(tmp_path: Path) -> None:
    body = " ".join(f"c{i + 1} = Concat<axis=1>(c{i}, c{i})" for i in range(30)).replace("c0", "x")
    with pytest.raises(UnsupportedModel, match="more than llcert can hold"):
        imported(tmp_path, f"{body} y = Relu(c30)", image=ROW)


def test_batch_norm_with_statistics_as_outputs_is_training(tmp_path: Path) -> None:
    """Before opset 14 listing them was how a file said so."""
    text = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[N, 3, 2, 2] x) => (float[N, 12] y)
    <float[3] one = {1, 1, 1}, float[3] zero = {0, 0, 0}>
    { h, m, v, sm, sv = BatchNormalization(x, one, zero, zero, one) y = Flatten(h) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "training.onnx")
    with pytest.raises(UnsupportedModel, match=r"BatchNormalization, opset 9\): is in training mode"):
        load(tmp_path / "training.onnx")
