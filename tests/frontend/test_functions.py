"""Local functions: inlined as onnxruntime computes them, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import torch
from onnx import AttributeProto, NodeProto, TensorProto, helper
from onnx_text import noise, onnx_model, operators, written

from llcert.api import load
from llcert.errors import UnsupportedModel

DENSE = {"w": noise(12, 5)}
STANDARD = helper.make_opsetid("", 17)
LOCAL = helper.make_opsetid("local", 1)


def calling(function: str, domain: str = "local", **attributes: float) -> onnx.ModelProto:
    """A dense layer, and a local function of its five values."""
    model = onnx_model("h = Gemm(x, w)", DENSE, image="float[N,12] x", domains={"local": 1})
    model.graph.node.append(helper.make_node(function, ["h"], ["y"], domain=domain, **attributes))
    return model


def leaky(default: Sequence[AttributeProto] = (), required: Sequence[str] = (), **names: str) -> onnx.FunctionProto:
    """A leaky ReLU whose slope is the function's own attribute `alpha`."""
    return helper.make_function(
        names.get("domain", "local"),
        "Bent",
        ["a"],
        ["b"],
        [slope_from_outside("a", "b")],
        [STANDARD],
        required,
        default,
    )


def slope_from_outside(source: str, result: str) -> NodeProto:
    node = helper.make_node("LeakyRelu", [source], [result])
    node.attribute.add(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT)
    return node


def slope(folder: Path, model: onnx.ModelProto) -> float:
    """Of the leaky ReLU that the network ends with."""
    network = load(written(folder, model))
    assert operators(network) == "Linear LeakyReLU"
    return float(network.output.op.tensors()["slope_below"])


def test_bodies_stand_in_place_of_calls(tmp_path: Path) -> None:
    model = calling("Twice")
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["b", "b"], ["c"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["c"], body, [STANDARD]))
    assert operators(load(written(tmp_path, model))) == "Linear ReLU Add"


def test_defaults_of_attributes_hold_unless_the_call_gives_them(tmp_path: Path) -> None:
    half = [helper.make_attribute("alpha", 0.5)]
    for model, expected in ((calling("Bent"), 0.5), (calling("Bent", alpha=0.25), 0.25)):
        model.functions.append(leaky(half))
        assert slope(tmp_path, model) == expected


def test_defaults_reach_calls_inside_functions_and_branches(tmp_path: Path) -> None:
    model = calling("Outer")
    inner = helper.make_node("Bent", ["a"], ["t"], domain="local")
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 5])
    taken, other = (
        helper.make_graph([n], n.op_type, [], [value]) for n in (inner, helper.make_node("Sign", ["a"], ["t"]))
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    body = [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], ["c"], then_branch=taken, else_branch=other),
    ]
    model.functions.append(helper.make_function("local", "Outer", ["a"], ["c"], body, [STANDARD, LOCAL]))
    model.functions.append(leaky([helper.make_attribute("alpha", 0.5)]))
    assert slope(tmp_path, model) == 0.5


def test_an_attribute_that_nobody_gives_is_named(tmp_path: Path) -> None:
    model = calling("Bent")
    model.functions.append(leaky(required=["alpha"]))
    with pytest.raises(UnsupportedModel, match=r"node 'Bent': calls the local function 'Bent' without its 'alpha'"):
        load(written(tmp_path, model))


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_functions_that_shadow_operators_of_the_runtime_are_refused(domain: str, tmp_path: Path) -> None:
    model = calling("Relu", domain)
    body = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function(domain, "Relu", ["a"], ["b"], body, [STANDARD]))
    with pytest.raises(UnsupportedModel, match=r"the local function 'Relu' is in the domain .* runtimes"):
        load(written(tmp_path, model))


def test_functions_of_another_opset_are_refused(tmp_path: Path) -> None:
    model = calling("Old")
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("local", "Old", ["a"], ["b"], body, [helper.make_opsetid("", 11)]))
    with pytest.raises(UnsupportedModel, match=r"'Old' is written in opset 11, the model in 17"):
        load(written(tmp_path, model))


def test_overloads_are_told_apart(tmp_path: Path) -> None:
    model = calling("Bent")
    model.ir_version = 10
    for overload, alpha in (("half", 0.5), ("quarter", 0.25)):
        model.functions.append(leaky([helper.make_attribute("alpha", alpha)]))
        model.functions[-1].overload = overload
    model.graph.node[-1].overload = "quarter"
    assert slope(tmp_path, model) == 0.25
    model.functions[-1].overload = "half"
    with pytest.raises(UnsupportedModel, match="two local functions have the same name"):
        load(written(tmp_path, model))


def test_functions_that_call_themselves_are_refused(tmp_path: Path) -> None:
    model = calling("First")
    for name, callee in (("First", "Second"), ("Second", "First")):
        body = [helper.make_node(callee, ["a"], ["b"], domain="local")]
        model.functions.append(helper.make_function("local", name, ["a"], ["b"], body, [STANDARD, LOCAL]))
    with pytest.raises(UnsupportedModel, match="calls itself"):
        load(written(tmp_path, model))


@pytest.mark.parametrize("inside_branches", [False, True])
def test_functions_that_unfold_without_end_are_refused(inside_branches: bool, tmp_path: Path) -> None:
    model = calling("F0")
    for level in range(40):
        callee = f"F{level + 1}"
        body = [helper.make_node(callee, ["a"], ["b"], domain="local")]
        body.append(helper.make_node(callee, ["b"], ["c"], domain="local"))
        if level == 39:
            body = [helper.make_node("Relu", ["a"], ["c"])]
        elif inside_branches:
            body = [_either(body)]
        model.functions.append(helper.make_function("local", f"F{level}", ["a"], ["c"], body, [STANDARD, LOCAL]))
    with pytest.raises(UnsupportedModel, match="unfold to"):
        load(written(tmp_path, model))


def _either(body: Sequence[NodeProto]) -> NodeProto:
    """The same in both branches of a condition that is a value of the function."""
    graph = helper.make_graph(body, "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)])
    return helper.make_node("If", ["a"], ["c"], then_branch=graph, else_branch=graph)


def test_weights_inside_functions_are_read(tmp_path: Path) -> None:
    model = calling("Shifted")
    shift = torch.arange(5.0)
    value = helper.make_tensor("s", TensorProto.FLOAT, [5], shift.tolist())
    body = [helper.make_node("Constant", [], ["s"], value=value), helper.make_node("Add", ["a", "s"], ["b"])]
    model.functions.append(helper.make_function("local", "Shifted", ["a"], ["b"], body, [STANDARD]))
    network, images = load(written(tmp_path, model)), noise(3, 12)
    torch.testing.assert_close(network(images), images @ DENSE["w"] + shift)
