"""Number formats as both doors record them: casts, what torch promotes, what is refused by name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from modules import Lambda
from onnx_text import imported, noise
from torch import Tensor, nn

import llcert
from llcert.api import load as load_pt2
from llcert.errors import UnsupportedModel
from llcert.ir import Network, evaluate_as_run
from llcert.ops import Cast

SINGLE, DOUBLE = torch.float32, torch.float64
ROW = "float[N,4] x"
W, V = noise(4, 4), noise(4, 3).double()


def formats(network: Network) -> str:
    """The operators, each with the format of its value."""
    return " ".join(f"{type(n.op).__name__}:{64 if n.dtype == DOUBLE else 32}" for n in network.operators())


FILES = {
    "one format": ("y = Gemm(x, w)", ROW, "Linear:32"),
    "in the middle": (
        "h = Gemm(x, w) d = Cast<to=11>(h) r = Relu(d) e = MatMul(r, v) y = Cast<to=1>(e)",
        ROW,
        "Linear:32 Cast:64 Clamp:64 Linear:64 Cast:32",
    ),
    "a double image": ("c = Cast<to=1>(x) y = Gemm(c, w)", "double[N,4] x", "Cast:32 Linear:32"),
    "like a constant": ("d = CastLike(x, v) e = MatMul(d, v) y = CastLike(e, w)", ROW, "Cast:64 Linear:64 Cast:32"),
    "like a value": ("h = CastLike(w, x) y = Gemm(x, h)", ROW, "Linear:32"),
    "wide and back": ("d = Cast<to=11>(x) f = Cast<to=1>(d) y = Gemm(f, w)", ROW, "Linear:32"),
    "narrow and back": (
        "c = Cast<to=1>(x) d = Cast<to=11>(c) e = MatMul(d, v) y = Cast<to=1>(e)",
        "double[N,4] x",
        "Cast:32 Cast:64 Linear:64 Cast:32",
    ),
    "behind a softmax": (
        "d = Cast<to=11>(x) e = MatMul(d, v) s = Softmax<axis=1>(e) y = Cast<to=1>(s)",
        ROW,
        "Cast:64 Linear:64",
    ),
    "half-precision constants": ("c = Cast<to=1>(half) y = Gemm(x, c)", ROW, "Linear:32"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_every_value_its_format(name: str, tmp_path: Path) -> None:
    body, image, expected = FILES[name]
    wide = expected.endswith("64")
    constants = {"w": W, "v": V, "half": noise(4, 3).half()}
    output = "double[] y" if wide and "Softmax" not in body else "float[] y"
    network = imported(tmp_path, body, constants, image=image, output=output)
    assert formats(network) == expected
    assert network.input.dtype == (DOUBLE if image.startswith("double") else SINGLE)


def test_a_constant_cast_up_is_the_same_number(tmp_path: Path) -> None:
    half = noise(4, 3).half()
    network = imported(tmp_path, "c = Cast<to=1>(h) y = Gemm(x, c)", {"h": half}, image=ROW)
    (layer,) = network.operators()
    assert torch.equal(layer.op.tensors()["weight"], half.T.float())


REFUSED = {
    "two types meet": ("e = MatMul(x, v) y = Identity(e)", {"v": V}, "MatMul.*float64.*float32.*Cast"),
    "a sum of many": ("y = Sum(x, x, d)", {"d": noise(4).double()}, "Sum.*float64.*float32"),
    "a bound": ("y = Clip(x, low)", {"low": torch.tensor(0.0, dtype=DOUBLE)}, "Clip.*min is float64"),
    "half": ("h = Cast<to=10>(x) y = Cast<to=1>(h)", {}, "Cast.*float16.*constants may have any type"),
    "bfloat": ("h = Cast<to=16>(x) y = Cast<to=1>(h)", {}, "Cast.*bfloat16"),
    "integers": ("h = Cast<to=6>(x) y = Cast<to=1>(h)", {}, "Cast.*int32"),
    "like integers": ("h = CastLike(x, i) y = Cast<to=1>(h)", {"i": torch.tensor([1])}, "CastLike.*int64"),
    "other statistics": (
        "y = BatchNormalization(x, one, one, wide, wide)",
        {"one": torch.ones(4), "wide": torch.ones(4, dtype=DOUBLE)},
        "BatchNormalization.*number format",
    ),
    "a variance below zero": (
        "y = BatchNormalization(x, one, one, one, v)",
        {"one": torch.ones(4), "v": torch.full((4,), -1e-6)},
        "BatchNormalization.*variance.*below zero",
    ),
    "a factor below every normal number": (
        "d = Cast<to=11>(x) y = BatchNormalization(d, least, zero, zero, most)",
        {
            "least": torch.full((4,), 1e-200, dtype=DOUBLE),
            "zero": torch.zeros(4, dtype=DOUBLE),
            "most": torch.full((4,), 1e300, dtype=DOUBLE),
        },
        "BatchNormalization.*too small for float64",
    ),
    "a divisor below every normal number": ("y = Div(x, d)", {"d": torch.tensor([1e-40])}, "Div.*subnormal"),
    "a divisor without a normal reciprocal": ("y = Div(x, d)", {"d": torch.tensor([2e38])}, "Div.*subnormal"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_modelled_is_refused_by_name(name: str, tmp_path: Path) -> None:
    body, constants, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        imported(tmp_path, body, constants, image=ROW)


TENTH = torch.tensor(0.1, dtype=DOUBLE)
MODULES = {
    "a vector decides": (Lambda(lambda x, c: x + c, noise(4).double()), "Cast:64 Affine:64"),
    "a single number does not": (Lambda(lambda x, c: x + c, TENTH), "Affine:32"),
    "nor does a Python number": (Lambda(lambda x: x * 0.1), "Affine:32"),
    "a narrower vector does not": (Lambda(lambda x, c: x * c, noise(4).half()), "Affine:32"),
    "values beside one another": (Lambda(lambda x: torch.cat([x, x.double()], 1)), "Cast:64 Concat:64"),
    "a sum of branches": (Lambda(lambda x: x.relu() + x.double()), "Clamp:32 Cast:64 Cast:64 Add:64"),
    "the larger": (Lambda(lambda x, c: torch.maximum(x, c), noise(4).double()), "Cast:64 Clamp:64"),
    "a sum in double": (Lambda(lambda x: x.reshape(-1, 2, 2).sum(2, dtype=DOUBLE)), "Cast:64 Reshape:64 Reduce:64"),
    "a mean in double": (Lambda(lambda x: x.reshape(-1, 2, 2).mean(2, dtype=DOUBLE)), "Cast:64 Reshape:64 Reduce:64"),
    "there and back": (Lambda(lambda x: x.double().mul(1 / 3).float()), "Cast:64 Affine:64 Cast:32"),
    "in place": (Lambda(lambda x, c: (x * 2).add_(c), noise(4).double()), "Affine:32 Cast:64 Affine:64 Cast:32"),
    "like another": (Lambda(lambda x, c: x.type_as(c) * 3, noise(4).double()), "Cast:64 Affine:64"),
    "zeros like it": (Lambda(lambda x: x.double() + torch.zeros_like(x.double())), "Cast:64"),
}


@pytest.mark.parametrize("name", MODULES)
def test_torch_promotes_as_torch_does(name: str) -> None:
    module, expected = MODULES[name]
    network = llcert.from_torch(module, torch.zeros(1, 4))
    assert formats(network) == expected
    images = noise(5, 4)
    found = evaluate_as_run(network.output, images)
    assert found.dtype == module(images).dtype
    assert torch.equal(found, module(images))


def test_a_number_is_rounded_as_torch_rounds_it() -> None:
    """Into the format of the value it meets, whatever the format of the image."""
    network = llcert.from_torch(Lambda(lambda x: (x * 0.1).double() * 0.1), torch.zeros(1, 4))
    scales = [float(n.op.tensors()["scale"]) for n in network.operators() if not isinstance(n.op, Cast)]
    assert scales == [float(torch.tensor(0.1)), 0.1]


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_padding_is_rounded_as_torch_rounds_it(dtype: torch.dtype) -> None:
    network = llcert.from_torch(Lambda(lambda x: F.pad(x, (1, 1), value=0.1)), torch.zeros(1, 4, dtype=dtype))
    (pad,) = network.operators()
    assert pad.op.value == float(torch.tensor(0.1, dtype=dtype))  # type: ignore[attr-defined]


def test_half_precision_is_refused_in_torch() -> None:
    for function in (lambda x: x.half().float(), lambda x: x.to(torch.bfloat16).float(), lambda x: x.long().float()):
        with pytest.raises(UnsupportedModel, match=r"casts a value of the image to (float16|bfloat16|int64)"):
            llcert.from_torch(Lambda(function), torch.zeros(1, 4))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)).double())


def test_a_saved_program_is_not_believed_about_its_formats(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Mixed().eval(), (torch.zeros(1, 4),)), tmp_path / "net.pt2")
    assert formats(load_pt2(tmp_path / "net.pt2")) == "Linear:32 Clamp:32 Cast:64 Linear:64"
    with zipfile.ZipFile(tmp_path / "net.pt2") as intact, zipfile.ZipFile(tmp_path / "lies.pt2", "w") as lies:
        for name in intact.namelist():
            content = intact.read(name)
            if name.endswith("models/model.json"):
                model = json.loads(content)
                model["graph_module"]["graph"]["tensor_values"]["relu"]["dtype"] = 8
                content = json.dumps(model).encode()
            lies.writestr(name, content)
    with pytest.raises(UnsupportedModel, match=r"relu.*is float64 by the graph, and float32 as torch computes it"):
        load_pt2(tmp_path / "lies.pt2")


def test_a_bound_that_float32_cannot_pass_binds_in_float64(tmp_path: Path) -> None:
    """Old opsets clip at the largest float32 number where a file names no bound."""
    for image, expected in (("float[N,4] x", "Clamp:32"), ("double[N,4] x", "Clamp:64 Cast:32")):
        body = "y = Clip<min=0.0>(x)" if image.startswith("float") else "c = Clip<min=0.0>(x) y = Cast<to=1>(c)"
        network = imported(tmp_path, body, image=image, output="float[] y", opset=7)
        assert formats(network) == expected
        clip = next(network.operators()).op
        highs = [float(t) for name, t in clip.tensors().items() if name == "high"]
        assert highs == ([] if image.startswith("float") else [torch.finfo(SINGLE).max])
