"""Import against the file's own runtime: agreement is measured, disagreement refuses the model."""

from __future__ import annotations

import builtins
import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx_text import imported, noise, onnx_model, written
from torch import nn

from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend import parity
from llcert.frontend.onnx_file import load, save
from llcert.ir import Network, apply
from llcert.ops import Affine

BODY = "c = Conv(x, w) r = Relu(c) f = Flatten(r) h = MatMul(f, d) y = Softmax<axis=1>(h)"
WEIGHTS = {"w": noise(4, 3, 3, 3), "d": noise(144, 5)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path, onnx_model(BODY, WEIGHTS))


def test_a_right_import_agrees_on_its_logits(model: Path) -> None:
    network = load(model)
    agreement = parity.check(network, model)
    assert agreement.difference is not None
    assert agreement.difference < 1e-5
    assert agreement.images == 8
    assert "agrees with onnxruntime" in network.notes[-1]


def test_given_images_are_compared(model: Path) -> None:
    assert parity.check(load(model), model, noise(3, 3, 8, 8)).images == 3
    with pytest.raises(InvalidInput, match=r"images \(8, 8, 3\) do not fit input \(3, 8, 8\)"):
        parity.check(load(model), model, noise(3, 8, 8, 3))


@pytest.mark.parametrize("scale", [1.001, float("nan")])
def test_a_wrong_import_is_refused(scale: float, model: Path) -> None:
    network = load(model)
    wrong = dataclasses.replace(network, output=apply(Affine(scale=torch.tensor(scale)), network.output))
    with pytest.raises(UnsupportedModel, match=r"llcert and onnxruntime .* disagree by"):
        parity.check(wrong, model)


def test_small_logits_are_no_excuse(tmp_path: Path) -> None:
    body, weights = "y = MatMul(x, w)", {"w": noise(12, 5) * 1e-6}
    network = imported(tmp_path, body, weights, image="float[N,12] x")
    wrong = dataclasses.replace(network, output=apply(Affine(scale=torch.tensor(1.01)), network.output))
    with pytest.raises(UnsupportedModel, match="disagree"):
        parity.check(wrong, tmp_path / "model.onnx")


def test_constants_for_more_images_than_one_are_refused(tmp_path: Path) -> None:
    body, constants = "y = Add(x, c)", {"c": torch.ones(17, 12)}
    with pytest.raises(UnsupportedModel, match="differs between images of a batch"):
        imported(tmp_path, body, constants, image="float[N,12] x")


def test_logits_that_overflow_are_refused(tmp_path: Path) -> None:
    body, weights = "h = MatMul(x, w) y = MatMul(h, v)", {"w": noise(12, 5) * 1e30, "v": noise(5, 3) * 1e30}
    with pytest.raises(UnsupportedModel, match="logits are NaN or infinite"):
        imported(tmp_path, body, weights, image="float[N,12] x")


def test_double_precision_that_the_runtime_lacks_is_checked_in_single(tmp_path: Path) -> None:
    weights = {"w": noise(3, 2, 3, 3).double(), "z": torch.tensor(0.5, dtype=torch.float64)}
    body = "c = ConvTranspose<group=3>(x, w) k = Cast<to=11>(c) t = Max(k, z) g = GlobalAveragePool(t) y = Flatten(g)"
    network = imported(tmp_path, body, weights, image="double[N,3,8,8] x")
    assert network.notes[-1].startswith("agrees with onnxruntime")
    assert " in float32 to " in network.notes[-1]


def test_without_onnxruntime_the_import_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "onnxruntime")
    agreement = parity.check(load(model, check=False), model)
    assert agreement.difference is None
    assert load(model).notes[-1] == "not compared with onnxruntime, which is not installed"


def test_a_second_opinion_is_one_line_where_onnx2torch_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "onnx2torch")
    with pytest.raises(UnsupportedModel, match=r"^model\.onnx: no second opinion, onnx2torch cannot be imported here"):
        parity.second_opinion(load(model), model)


def test_a_second_opinion_runs_in_eval_mode(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(model)
    monkeypatch.setitem(sys.modules, "onnx2torch", _stand_in(lambda _: _Twin(network)))
    agreement = parity.second_opinion(network, model)
    assert agreement.runtime == "onnx2torch"
    assert agreement.difference == 0


def test_a_second_opinion_that_fails_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: onnx.ModelProto) -> nn.Module:
        raise NotImplementedError("Converter is not implemented\nfor Reshape 19")

    monkeypatch.setitem(sys.modules, "onnx2torch", _stand_in(fails))
    with pytest.raises(UnsupportedModel, match=r"onnx2torch cannot convert or run it \(Converter is not implemented\)"):
        parity.second_opinion(load(model), model)


def test_saved_files_are_checked_too(model: Path, tmp_path: Path) -> None:
    network = load(model)
    save(network, tmp_path / "saved.onnx")
    assert parity.check(network, tmp_path / "saved.onnx").difference is not None


class _Twin(nn.Module):
    """Wrong until it is told that training is over, as onnx2torch's modules are."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) + float(self.training)


def _stand_in(convert: Any) -> ModuleType:
    stand_in: Any = SimpleNamespace(convert=convert)
    return stand_in


def _hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = builtins.__import__

    def hiding(wanted: str, *args: Any, **kwargs: Any) -> ModuleType:
        if wanted.split(".")[0] == name:
            raise ImportError(f"No module named {name!r}")
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", hiding)
