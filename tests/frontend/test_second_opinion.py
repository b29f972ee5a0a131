"""A second opinion on a file, by onnx2torch or by a stand-in for it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from missing_modules import hide
from onnx_text import noise
from torch import nn

from llcert.api import load
from llcert.errors import UnsupportedModel
from llcert.frontend.comparison import measured
from llcert.frontend.second_opinion import second_opinion
from llcert.ir import Network


def test_a_second_opinion_is_one_line_where_onnx2torch_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "onnx2torch")
    with pytest.raises(UnsupportedModel, match=r"^model\.onnx: no second opinion, onnx2torch cannot be imported here"):
        second_opinion(model)


def test_a_second_opinion_runs_in_eval_mode(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(model)
    monkeypatch.setitem(sys.modules, "onnx2torch", _stand_in(lambda _: _Twin(network)))
    agreement, differ = measured(network, noise(4, 3, 8, 8), second_opinion(model))
    assert agreement.runtime == "onnx2torch"
    assert not differ


def test_a_second_opinion_that_fails_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: onnx.ModelProto) -> nn.Module:
        raise NotImplementedError("Converter is not implemented\nfor Reshape 19")

    monkeypatch.setitem(sys.modules, "onnx2torch", _stand_in(fails))
    with pytest.raises(UnsupportedModel, match=r"onnx2torch cannot convert or run it \(Converter is not implemented\)"):
        second_opinion(model)


class _Twin(nn.Module):
    """Wrong until it is told that training is over, as onnx2torch's modules are."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) * (1 + float(self.training))


def _stand_in(convert: Any) -> ModuleType:
    stand_in: Any = SimpleNamespace(convert=convert)
    return stand_in
