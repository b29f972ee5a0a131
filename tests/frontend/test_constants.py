"""Constants of a file: what onnxruntime makes of them, to the last bit, or a refusal."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_text import imported, noise, onnx_model, operators, written

from llcert.api import load
from llcert.errors import UnsupportedModel
from llcert.frontend.folding import ConstantFolder
from llcert.frontend.rules import rule_for
from llcert.frontend.runtime import run_node

Array = NDArray[Any]
ROW = "float[N,3] x"


def shift(folder: Path, body: str, *constants: tuple[str, Array], opset: int = 17) -> list[float]:
    """What a file adds to its image: `c`, computed by `body`."""
    model = onnx_model(f"{body} y = Add(x, c)", image=ROW, opset=opset)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants)
    network = load(written(folder, model))
    return [float(v) for v in network(torch.zeros(1, 3))[0]]


def of(kind: Any, *values: float) -> Array:
    return np.array(values, kind)


EXACT: dict[str, tuple[str, list[tuple[str, Array]], float]] = {
    "a sentinel": (
        "o = ConstantOfShape<value = float[1] {1.0}>(n) s = ReduceSum<keepdims=1>(o) c = Sub(k, s)",
        [("n", of(np.int64, 7919)), ("k", of(np.float32, 7927))],
        8,
    ),
    "bytes that overflow": ("s = Add(u, n) c = Cast<to=1>(s)", [("u", of(np.uint8, 255)), ("n", of(np.uint8, 9))], 8),
    "words that overflow": (
        "s = Add(u, n) c = Cast<to=1>(s)",
        [("u", of(np.uint32, 2**32 - 1)), ("n", of(np.uint32, 9))],
        8,
    ),
    "bits shifted out": (
        'v = BitShift<direction="LEFT">(u, n) c = Cast<to=1>(v)',
        [("u", of(np.uint8, 255)), ("n", of(np.uint8, 1))],
        254,
    ),
    "minus one without a sign": (
        "u = Cast<to=13>(m) f = Cast<to=1>(u) c = Mul(f, t)",
        [("m", of(np.int64, -1)), ("t", of(np.float32, 2.0**-64))],
        1,
    ),
    "a quotient of whole numbers": (
        "q = Div(a, b) c = Cast<to=1>(q)",
        [("a", of(np.int32, -7)), ("b", of(np.int32, 2))],
        -3,
    ),
    "a norm": (
        "p = LpNormalization<axis=0, p=1>(a) c = ReduceMax<keepdims=1>(p)",
        [("a", of(np.float32, 3, -1))],
        0.75,
    ),
    "half precision": ("h = Add(a, a) c = Cast<to=1>(h)", [("a", of(np.float16, 1 / 3))], float(2 * np.float16(1 / 3))),
    "sixteen bits": ("c = Cast<to=1>(a)", [("a", of(ml_dtypes.bfloat16, 1.5))], 1.5),
    "four bits": ("c = Cast<to=1>(a)", [("a", of(ml_dtypes.int4, -8))], -8),
}


@pytest.mark.parametrize("name", EXACT)
def test_constants_are_computed_in_their_own_types(name: str, tmp_path: Path) -> None:
    body, constants, expected = EXACT[name]
    opset = 21 if name == "four bits" else 17
    assert shift(tmp_path, body, *constants, opset=opset) == [expected] * 3


def test_softmax_of_old_opsets_normalises_all_axes_behind(tmp_path: Path) -> None:
    constants = ("a", np.zeros((2, 2), np.float32))
    assert shift(tmp_path, "p = Softmax<axis=0>(a) c = ReduceMax<keepdims=0>(p)", constants, opset=11) == [0.25] * 3


def test_sums_are_added_up_in_the_runtimes_order(tmp_path: Path) -> None:
    values = (np.random.default_rng(0).standard_normal(4096) * 1e9).astype(np.float32)
    model = onnx_model("c = ReduceSum<keepdims=1>(v) y = Add(x, c)", image=ROW)
    model.graph.initializer.append(numpy_helper.from_array(values, "v"))
    (sums,) = run_node(model.graph.node[0], {"v": values}, 17)
    assert shift(tmp_path, "c = ReduceSum<keepdims=1>(v)", ("v", values)) == [float(sums[0])] * 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c = Dropout(a, half, yes)", "is random in training mode"),
        ("c = RandomNormalLike(a)", "llcert does not compute constants with this operator"),
        ("c = RandomUniform<shape=[3]>()", "llcert does not compute constants with this operator"),
        ("c = Bernoulli(half)", "llcert does not compute constants with this operator"),
        ("i = Cast<to=3>(huge) c = Cast<to=1>(i)", "casts numbers that int8 cannot hold"),
        ("h = Cast<to=16>(third) c = Cast<to=1>(h)", "rounds constants to bfloat16"),
        ("d = ReduceProd(many) c = Cast<to=1>(d)", "too large to be added up or multiplied alike"),
        ("d = Div(lowest, minus) c = Cast<to=1>(d)", "a quotient that no integer holds"),
        ("d = Mod(lowest, minus) c = Cast<to=1>(d)", "a remainder by -1"),
        ("d = Div(lowest, zero) c = Cast<to=1>(d)", "a quotient that no integer holds"),
        ('d = BitShift<direction="LEFT">(word, word) c = Cast<to=1>(d)', "a shift by more bits than there are"),
    ],
)
def test_what_runtimes_do_not_agree_on_is_refused(body: str, message: str, tmp_path: Path) -> None:
    constants = {
        "a": of(np.float32, 1, 2, 3),
        "half": np.array(0.5, np.float32),
        "yes": np.array(True),
        "huge": of(np.float32, 300),
        "third": of(np.float32, 1 / 3),
        "lowest": of(np.int64, -(2**63)),
        "minus": of(np.int64, -1),
        "zero": of(np.int64, 0),
        "word": of(np.uint64, 64),
        "many": of(np.int32, 2**20, 2**20),
    }
    with pytest.raises(UnsupportedModel, match=message):
        shift(tmp_path, body, *constants.items())


SYMBOLIC: dict[str, str] = {
    "as a number": "s = Shape(x) f = Cast<to=1>(s) c = ReduceSum<keepdims=0>(f)",
    "the first of it": "s = Shape<end=1>(x) f = Cast<to=1>(s) c = Mul(f, two)",
    "the size": "s = Size(x) c = Cast<to=1>(s)",
    "ones added up": "s = Shape(x) o = ConstantOfShape<value = float[1] {1.0}>(s) c = ReduceSum<keepdims=0>(o)",
    "a long axis": "s = Shape(x) r = Concat<axis=0>(one, s) o = ConstantOfShape(r) c = ReduceMax<keepdims=0>(o)",
    "a comparison": "s = Shape<end=1>(x) e = Equal(s, many) c = Cast<to=1>(e)",
    "a condition": "s = Shape<end=1>(x) z = Squeeze(s) e = Greater(z, number) c = "
    "If<then_branch = a () => (float[1] p) {p = Identity(two)}, else_branch = b () => (float[1] q) {q = Neg(two)}>(e)",
    "positions": "s = Shape<end=1>(x) n = Squeeze(s) r = Range(zero, n, number) f = Cast<to=1>(r) "
    "c = ReduceMax<keepdims=0>(f)",
    "a width": "s = Shape<end=1>(x) u = Cast<to=2>(s) c = Cast<to=1>(u)",
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_a_number_that_depends_on_the_batch_refuses_the_file(name: str, tmp_path: Path) -> None:
    constants = [
        ("one", of(np.int64, 1)),
        ("many", of(np.int64, 7919)),
        ("number", np.array(1, np.int64)),
        ("zero", np.array(0, np.int64)),
        ("two", of(np.float32, 2)),
    ]
    with pytest.raises(
        UnsupportedModel, match=r"node '.*depends on how many images a batch has|every image of a batch"
    ):
        shift(tmp_path, SYMBOLIC[name], *constants)


KEPT: dict[str, str] = {
    "compared with what it cannot be": "s = Shape(x) e = Equal(s, minus) t = Where(e, three, s) y = Reshape(x, t)",
    "divided by itself": "s = Shape<end=1>(x) o = Div(s, s) t = Concat<axis=0>(s, o, three1) y = Reshape(x, t)",
    "the size over it": "n = Size(x) s = Shape<end=1>(x) q = Div(n, s) t = Concat<axis=0>(s, q) y = Reshape(x, t)",
    "a product": "s = Shape(x) p = ReduceProd<keepdims=1>(s) q = Div(p, three1) t = Concat<axis=0>(q, three1) "
    "y = Reshape(x, t)",
    "zeros beside": "s = Shape(x) z = ConstantOfShape(s) m = Max(x, z) y = Concat<axis=1>(m, z)",
    "an expanded constant": "s = Shape(x) e = Expand(two, s) n = Neg(e) y = Add(x, n)",
}


@pytest.mark.parametrize("name", KEPT)
def test_shapes_that_hold_for_every_batch_are_followed(name: str, tmp_path: Path) -> None:
    constants = {
        "minus": torch.tensor([-1]),
        "three": torch.tensor([3, 3]),
        "three1": torch.tensor([3]),
        "two": torch.tensor(2.0),
    }
    body = KEPT[name].replace("y = Reshape(x, t)", "r = Reshape(x, t) f = Flatten(r) y = Relu(f)")
    assert imported(tmp_path, body, constants, image=ROW).input.shape == (3,)


def test_names_inside_a_branch_are_its_own(tmp_path: Path) -> None:
    body = (
        "z = If<then_branch = a () => (float[1] p) {p = Identity(b)}, else_branch = e () => (float[1] q) {q = Neg(b)}>"
    )
    model = onnx_model(f"{body}(yes) h = Add(x, z) y = Sub(h, b)", image=ROW)
    branch = model.graph.node[0].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(of(np.float32, 1000), "b"))
    for name, array in (("yes", np.array(True)), ("b", of(np.float32, 8))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    assert load(written(tmp_path, model))(torch.zeros(1, 3)).tolist() == [[992.0] * 3]


def test_external_and_sparse_constants_of_branches(tmp_path: Path) -> None:
    body = (
        "z = If<then_branch = a () => (float[1] p) {p = Identity(b)}, else_branch = e () => (float[1] q) {q = Neg(x)}>"
    )
    model = onnx_model(f"{body}(yes) y = Add(x, z)", image=ROW)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    branch = model.graph.node[0].attribute[0].g
    weights = branch.initializer.add(name="b", data_type=TensorProto.FLOAT, dims=[1])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../b.data")
    (tmp_path / "b.data").write_bytes(of(np.float32, 8).tobytes())
    (tmp_path / "models").mkdir()
    with pytest.raises(UnsupportedModel, match="lies outside the model's folder"):
        load(written(tmp_path / "models", model))
    del branch.initializer[:]
    values = helper.make_tensor("b", TensorProto.FLOAT, [1], [8.0])
    indices = helper.make_tensor("b_indices", TensorProto.INT64, [1], [0])
    branch.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1]))
    with pytest.raises(UnsupportedModel, match="has sparse constants"):
        load(written(tmp_path, model))


def ints(*values: int) -> Array:
    return of(np.int64, *values)


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 5.5
AGAIN: list[tuple[str, list[Array], int, dict[str, Any]]] = [
    *(
        (kind, [X, X[::-1].copy() + 5.5], 17, {})
        for kind in ("Add", "Sub", "Mul", "Div", "Equal", "Greater", "LessOrEqual")
    ),
    *(
        (kind, [ints(7, -7, 9), ints(2, 2, -4)], 17, {})
        for kind in ("Add", "Sub", "Mul", "Div", "Less", "GreaterOrEqual")
    ),
    *((kind, [of(np.uint8, 250, 3), of(np.uint8, 10, 7)], 17, {}) for kind in ("Add", "Sub", "Mul", "Div")),
    *((kind, [X], 17, {}) for kind in ("Abs", "Neg", "Identity", "Shape", "Size", "Transpose")),
    *(("Cast", [X * 0.37], 17, {"to": to}) for to in (3, 6, 7, 9, 11)),
    *(("Cast", [ints(2**62 + 1, -1, 0)], 17, {"to": to}) for to in (1, 2, 6, 9, 11, 13)),
    ("Cast", [of(np.float16, 0.1, -2)], 17, {"to": 1}),
    ("CastLike", [X, ints(0)], 17, {}),
    ("Transpose", [X], 17, {"perm": [2, 0, 1]}),
    ("Reshape", [X, ints(0, -1)], 17, {}),
    ("Flatten", [X], 17, {"axis": -1}),
    ("Flatten", [X], 17, {"axis": 3}),
    ("Squeeze", [X[:1]], 17, {}),
    ("Squeeze", [X[:1]], 11, {"axes": [0]}),
    ("Unsqueeze", [X, ints(-1, 1)], 17, {}),
    ("Unsqueeze", [X], 11, {"axes": [0]}),
    ("Concat", [X, X], 17, {"axis": -2}),
    ("Slice", [X, ints(-1, 1), ints(-99, 99), ints(2, 0), ints(-2, 1)], 17, {}),
    ("Slice", [X], 9, {"starts": [1], "ends": [-1], "axes": [2]}),
    ("Split", [X, ints(1, 3)], 17, {"axis": 2}),
    ("Split", [X], 11, {"axis": 2}),
    ("Split", [X[:, :, :3]], 18, {"axis": 2, "num_outputs": 2}),
    ("Gather", [X, ints(-1, 0)], 17, {"axis": 1}),
    ("Gather", [X, np.array(1)], 17, {}),
    ("Expand", [X[:, :1], ints(3, 1)], 17, {}),
    ("Tile", [X, ints(1, 2, 1)], 17, {}),
    ("Where", [X > 0, X, -X], 17, {}),
    ("Range", [np.array(5), np.array(-4), np.array(-2)], 17, {}),
    ("ReduceSum", [ints(1, 2, 3)], 17, {}),
    ("ReduceSum", [np.arange(6).reshape(2, 3), ints(-1)], 17, {"keepdims": 0}),
    ("ReduceProd", [np.arange(1, 7).reshape(2, 3)], 17, {"axes": [0]}),
    ("Mul", [of(np.int32, 2**20, -(2**31)), of(np.int32, 2**20, 3)], 17, {}),
    ("Add", [ints(2**63 - 1), ints(1)], 17, {}),
    ("ReduceProd", [of(np.int32, 2**20, 2**10, -1)], 17, {"keepdims": 0}),
    *((kind, [np.array([True, False]), np.array([True, True])], 17, {}) for kind in ("And", "Or", "Xor")),
    ("Not", [np.array([True, False])], 17, {}),
    ("ConstantOfShape", [ints(2, 0, 3)], 17, {"value": helper.make_tensor("v", TensorProto.INT32, [1], [7])}),
]


@pytest.mark.parametrize(("kind", "inputs", "opset", "attributes"), AGAIN)
def test_our_rules_are_the_runtimes_own(
    kind: str, inputs: Sequence[Array], opset: int, attributes: dict[str, Any]
) -> None:
    names = [f"i{i}" for i in range(len(inputs))]
    node = helper.make_node(kind, names, ["a", "b"] if kind == "Split" else ["a"], **attributes)
    assert rule_for(kind, [a.dtype for a in inputs]) is not None
    ours = ConstantFolder(opset, 10_000).compute(node, inputs, "here")
    theirs = run_node(node, dict(zip(names, inputs, strict=True)), opset)
    for mine, other in zip(ours, theirs, strict=True):
        assert isinstance(mine, np.ndarray)
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


def test_without_onnxruntime_only_what_is_exact_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def hiding(wanted: str, *args: Any, **kwargs: Any) -> Any:
        if wanted.split(".")[0] == "onnxruntime":
            raise ImportError(wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", hiding)
    weights = {"w": noise(3, 5), "v": noise(5, 3)}
    assert (
        operators(imported(tmp_path, "t = Transpose(v) s = Add(t, w) y = Gemm(x, s)", weights, image=ROW)) == "Linear"
    )
    with pytest.raises(UnsupportedModel, match=r"'n' \(ReduceL2, opset 17\): runtimes differ .* is not installed"):
        imported(tmp_path, "n = ReduceL2<axes=[0]>(w) u = Div(w, n) y = Gemm(x, u)", weights, image=ROW)


def test_metadata_given_twice_is_refused(tmp_path: Path) -> None:
    model = onnx_model("y = Relu(x)", image=ROW)
    for eps in ("0.1", "0.2"):
        model.metadata_props.add(key="llcert.eps", value=eps)
    with pytest.raises(UnsupportedModel, match="two metadata entries are called"):
        load(written(tmp_path, model))
    model = onnx_model("y = LeakyRelu<alpha=0.5>(x)", image=ROW)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 0.1))
    with pytest.raises(UnsupportedModel, match="two attributes of node 'LeakyRelu' are called 'alpha'"):
        load(written(tmp_path, model))
