"""Networks against the files and modules they were read from: differences of logits, within rounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from missing_modules import hide
from onnx import TensorProto, helper, numpy_helper
from onnx_text import imported, noise, onnx_model, operators, written
from random_graphs import in_format, random_network
from torch import Tensor

import llcert
from llcert.api import load
from llcert.bounds.evaluation import evaluation, least_evaluation
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend import onnx_file
from llcert.frontend.comparison import Rounded, checked, compared
from llcert.frontend.onnx_file import save
from llcert.frontend.probing import inputs_of
from llcert.ir import Network, apply
from llcert.ops import Affine
from llcert.program import lower

ROW = "float[N,12] x"


DENSE = {"w": noise(12, 5), "b": noise(5), "v": noise(5, 3)}


def changed(network: Network, op: Affine) -> Network:
    """The network with something behind it, as if that had been read."""
    return dataclasses.replace(network, output=apply(op, network.output))


def test_a_right_import_agrees_on_its_logits(model: Path) -> None:
    network = load(model)
    agreement = compared(network, noise(8, 3, 8, 8))
    assert agreement.difference < 1e-5
    assert agreement.inputs == 8
    assert network.notes[-1].startswith(f"agrees with onnxruntime {onnxruntime.__version__} to ")


def test_images_must_fit(model: Path) -> None:
    with pytest.raises(InvalidInput, match=r"images \(8, 8, 3\) do not fit its input \(3, 8, 8\)"):
        compared(load(model), noise(3, 8, 8, 3))


@pytest.mark.parametrize(
    "op",
    [
        Affine(scale=torch.tensor(1.001)),
        Affine(scale=torch.tensor(float("nan"))),
        Affine(shift=torch.tensor([0.0, 0.0, 1e-3, 0.0, 0.0])),
    ],
)
def test_a_wrong_import_is_refused(op: Affine, model: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"llcert and onnxruntime .* disagree by"):
        checked(changed(load(model), op))


def test_what_all_logits_share_is_no_difference(model: Path) -> None:
    assert "agrees with" in checked(changed(load(model), Affine(shift=torch.tensor(1e-3)))).notes[-1]


def test_small_logits_are_no_excuse(tmp_path: Path) -> None:
    network = imported(tmp_path, "y = MatMul(x, w)", {"w": noise(12, 5) * 1e-6}, image=ROW)
    with pytest.raises(UnsupportedModel, match="disagree"):
        checked(changed(network, Affine(scale=torch.tensor(1.001))))


def test_an_offset_of_all_logits_is_no_excuse(tmp_path: Path) -> None:
    """A common offset makes vectors of logits long, not their differences large."""
    network = imported(tmp_path, "h = MatMul(x, w) y = Add(h, o)", {**DENSE, "o": torch.tensor(100.0)}, image=ROW)
    with pytest.raises(UnsupportedModel, match="disagree"):
        checked(changed(network, Affine(scale=torch.tensor([1 + 1e-4, 1, 1, 1, 1]))))


def test_units_that_random_inputs_leave_off_are_driven(tmp_path: Path) -> None:
    """A detector of one pattern, whose threshold was read wrongly: only an input made for it tells."""
    pattern = torch.tensor([1.0, 0.0] * 16)
    body = "h = MatMul(x, w) k = Add(h, b) r = Relu(k) y = MatMul(r, v)"
    weights = {"w": (2 * pattern - 1)[:, None], "b": torch.tensor([-14.0]), "v": torch.tensor([[0.0, 1.0]])}
    network = imported(tmp_path, body, weights, image="float[N,32] x")
    wrong = imported(tmp_path, body, {**weights, "b": torch.tensor([-15.0])}, image="float[N,32] x")
    with pytest.raises(UnsupportedModel, match="disagree"):
        checked(dataclasses.replace(network, original=wrong.original))


def test_inputs_have_several_scales_and_are_the_same_every_time() -> None:
    program = lower(random_network(3), dtype=torch.float32)
    first, second = list(inputs_of(program)), list(inputs_of(program))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    sizes = [float(batch.abs().max()) for batch in first]
    assert sizes[0] <= 1 < sizes[1] < 10 < 100 < sizes[2]
    assert any(bool((batch == 0).flatten(1).all(1).any()) for batch in first)


def test_cancelling_numbers_are_told_of_and_prove_nothing(tmp_path: Path) -> None:
    body = "h = Gemm(x, w, big) k = Sub(h, big) r = Relu(k) y = Gemm(r, v)"
    network = imported(tmp_path, body, {**DENSE, "big": torch.full((5,), 1e7)}, image=ROW)
    assert "rounding alone moves its logits that far (numbers in it cancel)" in network.notes[-1]
    images = noise(20, 12)
    report = llcert.certify(network, (images, network(images).argmax(1)), 1e-6)
    assert report.certified_accuracy == 0
    assert llcert.certify(network, (images, network(images).argmax(1)), 1e-6, semantics="real").certified_accuracy > 0


def test_logits_that_overflow_are_refused(tmp_path: Path) -> None:
    body, weights = "h = MatMul(x, w) y = MatMul(h, v)", {"w": noise(12, 5) * 1e30, "v": noise(5, 3) * 1e30}
    with pytest.raises(UnsupportedModel, match="logits are NaN or infinite"):
        imported(tmp_path, body, weights, image=ROW)


def test_logits_that_overflow_far_outside_the_pixels_are_none_of_our_business(tmp_path: Path) -> None:
    weights = {"w": torch.full((12, 5), 1e19), "v": torch.full((5, 3), 1e17) * torch.tensor([1.0, 2.0, 3.0])}
    assert "agrees" in imported(tmp_path, "h = MatMul(x, w) y = MatMul(h, v)", weights, image=ROW).notes[-1]


@pytest.mark.parametrize("seed", range(12))
def test_rounding_is_bounded_at_every_image(seed: int) -> None:
    """What float32 computes, forwards and with permuted sums, lies within what is allowed; and the least is no more."""
    once = in_format(random_network(seed), torch.float32)
    program = lower(once, dtype=torch.float64)
    images = torch.rand(16, *once.input.shape)
    whole, least = evaluation(program, images), least_evaluation(program, images)
    assert (whole.excess(once(images)) <= 0).all()
    assert torch.equal(whole.values, least.values)
    assert (least.rounding <= whole.rounding * (1 + 1e-9)).all()
    off = whole.values.clone()
    off[:, 0] += 2 * whole.rounding[:, 0] + 3 * whole.rounding.amax()
    assert (whole.excess(off) > 0).all()
    assert (whole.excess(torch.full_like(off, torch.nan)) > 0).all()


def test_far_more_than_rounding_is_refused_even_below_the_worst_case(tmp_path: Path) -> None:
    """Sizes multiply from layer to layer, so that the bound of a deep network allows anything."""
    layers = ["h1 = MatMul(x, u) g1 = Relu(h1)"]
    layers += [f"h{i} = MatMul(g{i - 1}, u) g{i} = Relu(h{i})" for i in range(2, 25)]
    deep = " ".join(layers)
    network = imported(tmp_path, f"{deep} y = MatMul(g24, w)", {"u": noise(12, 12) / 3, "w": noise(12, 5)}, image=ROW)
    wrong = changed(network, Affine(scale=torch.tensor(1.01)))
    known = Rounded(wrong, lower(wrong, dtype=torch.float64), noise(4, 12))
    assert not known.beyond(network(known.images).double()).any()
    with pytest.raises(UnsupportedModel, match="disagree"):
        checked(wrong)


def logits_of(network: Network, images: Tensor) -> Tensor:
    assert network.original is not None
    return network.original.logits(images)


def test_the_file_runs_as_it_is(model: Path) -> None:
    """With Softmax behind its logits, and in a batch."""
    network, images = load(model), noise(5, 3, 8, 8)
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": images.numpy()})[0]
    np.testing.assert_allclose(logits_of(network, images).softmax(1).numpy(), theirs, atol=1e-6)
    torch.testing.assert_close(network(images), logits_of(network, images).float(), atol=1e-4, rtol=1e-4)


def test_functions_are_run_as_the_runtime_reads_them(tmp_path: Path) -> None:
    """The comparison must not look at what we made of a function: a wrong inlining shows."""
    model = onnx_model("h = Gemm(x, w)", DENSE, image=ROW, domains={"local": 1})
    model.graph.node.append(helper.make_node("Bent", ["h"], ["y"], domain="local"))
    bent = helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.5)
    model.functions.append(helper.make_function("local", "Bent", ["a"], ["b"], [bent], [helper.make_opsetid("", 17)]))
    network = load(written(tmp_path, model))
    bent.attribute[0].f = 0.4
    del model.functions[:]
    model.functions.append(helper.make_function("local", "Bent", ["a"], ["b"], [bent], [helper.make_opsetid("", 17)]))
    other = onnx_file.load(written(tmp_path, model))
    with pytest.raises(UnsupportedModel, match="disagree"):
        checked(dataclasses.replace(network, original=other.original))


@pytest.mark.parametrize(
    ("image", "body", "together"),
    [
        (ROW, "y = MatMul(x, w)", True),
        ("float[N,12] x", "r = Reshape(x, s) y = MatMul(r, w)", False),
        ("float[1,12] x", "y = MatMul(x, w)", False),
        ("float[8,12] x", "y = MatMul(x, w)", True),
        ("float[12] x", "y = MatMul(x, w)", False),
    ],
)
def test_images_run_together_where_the_file_allows_it(image: str, body: str, together: bool, tmp_path: Path) -> None:
    network = imported(tmp_path, body, {**DENSE, "s": torch.tensor([1, -1])}, image=image)
    images, runs = noise(11, 12), []
    original: Any = network.original
    run = original._run
    object.__setattr__(original, "_run", lambda batch: (runs.append(len(batch)), run(batch))[1])
    torch.testing.assert_close(original.logits(images).float(), images @ DENSE["w"], atol=1e-4, rtol=1e-4)
    assert len(runs) == {(ROW, True): 1}.get((image, together), 2 if image.startswith("float[8") else 11)


def test_what_lies_behind_the_logits_must_answer_alike(tmp_path: Path) -> None:
    """A file whose label is not the one its logits have: its answers are NaN, and it is refused."""
    network = imported(tmp_path, "y = MatMul(x, w)", DENSE, image=ROW)
    body = "h = MatMul(x, w) n = Neg(h) y = ArgMax<axis=1, keepdims=0>(n)"
    other = onnx_model(body, DENSE, image=ROW, outputs=("int64[] y",))
    original = dataclasses.replace(network.original, content=_with_logits(other), logits_name="h", others=("y",))
    assert original.logits(noise(4, 12)).isnan().all()
    right = imported(tmp_path, body.replace("Neg", "Identity"), DENSE, image=ROW, output="int64[] y")
    assert logits_of(right, noise(4, 12)).isfinite().all()


def _with_logits(model: onnx.ModelProto) -> bytes:
    model.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, None))
    return model.SerializeToString()


def test_logits_inside_a_function_are_refused(tmp_path: Path) -> None:
    model = onnx_model("h = Gemm(x, w)", DENSE, image=ROW, domains={"local": 1})
    model.graph.node.append(helper.make_node("Headed", ["h"], ["y"], domain="local"))
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Softmax", ["b"], ["c"])]
    model.functions.append(helper.make_function("local", "Headed", ["a"], ["c"], body, [helper.make_opsetid("", 17)]))
    with pytest.raises(UnsupportedModel, match=r"its logits .* lie inside a local function"):
        load(written(tmp_path, model))


def test_nodes_that_nothing_needs_are_left_out(tmp_path: Path) -> None:
    """Runtimes compute them all the same: here a quotient that ends the process, and a constant as large as memory."""
    model = onnx_model("d = Div(a, b) e = ConstantOfShape(s) y = Relu(x)", image=ROW)
    values = {"a": [-(2**63)], "b": [-1], "s": [2**40]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), n) for n, v in values.items())
    assert operators(load(written(tmp_path, model))) == "ReLU"


def test_a_branch_that_is_not_taken_may_hold_little(tmp_path: Path) -> None:
    branches = (
        "then_branch = a () => (float[N,12] p) {p = Relu(x)}, else_branch = b () => (float[N,12] q) {q = Tile(x, s)}"
    )
    body = f"y = If<{branches}>(yes)"
    constants = {"yes": torch.tensor(True), "s": torch.tensor([2**40, 1])}
    with pytest.raises(UnsupportedModel, match="its other branch has Tile"):
        imported(tmp_path, body, constants, image=ROW)


def test_weights_outside_the_file_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx_model("y = MatMul(x, w)", DENSE, image=ROW)
    for tensor in model.graph.initializer:
        (tmp_path / f"{tensor.name}.data").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{tensor.name}.data")
    path = written(tmp_path, model)
    monkeypatch.chdir("/")
    assert "agrees with onnxruntime" in load(path).notes[-1]


def test_the_newest_file_format_is_run(tmp_path: Path) -> None:
    model = onnx_model("y = MatMul(x, w)", DENSE, image=ROW)
    model.ir_version = onnx.IR_VERSION
    assert "agrees with onnxruntime" in load(written(tmp_path, model)).notes[-1]


def test_double_precision_that_the_runtime_lacks_is_compared_in_single(tmp_path: Path) -> None:
    weights = {"w": noise(3, 2, 3, 3).double(), "z": torch.tensor(0.5, dtype=torch.float64)}
    body = "c = ConvTranspose<group=3>(x, w) k = Cast<to=11>(c) t = Max(k, z) g = GlobalAveragePool(t) y = Flatten(g)"
    network = imported(tmp_path, body, weights, image="double[N,3,8,8] x")
    assert network.notes[-1].startswith("agrees with onnxruntime")
    assert " in float32 to " in network.notes[-1]


def test_without_onnxruntime_the_import_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnxruntime")
    network = load(model)
    assert network.notes[-1] == "not compared with onnxruntime, which is not installed"
    assert network.original is None
    images = torch.rand(4, 3, 8, 8)
    report = llcert.certify(network, (images, network(images).argmax(1)), 1e-4)
    assert "not compared with onnxruntime, which is not installed" in report.subject.notes


def test_saved_files_are_checked_too(model: Path, tmp_path: Path) -> None:
    network = load(model)
    save(network, tmp_path / "saved.onnx")
    assert compared(load(tmp_path / "saved.onnx"), noise(4, 3, 8, 8)).difference < 1e-5
