"""What torch's two exporters write, at several opsets: recognised, and equal to the module itself."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from onnx_text import noise, operators
from torch import Tensor, nn

from llcert.api import load

IMAGE = (3, 8, 8)
OLD_OPSETS = (13, 17, 18, 20)


class Lambda(nn.Module):
    """A function of the image and some layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


class Theta(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(noise(*shape).abs())

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(F.relu(x), self.theta)


def halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), 1)


def pairs(x: Tensor) -> Tensor:
    n, c = x.shape[:2]
    y = x.reshape(n, c // 2, 2, *x.shape[2:])
    return torch.cat((y.amax(2, keepdim=True), y.amin(2, keepdim=True)), 2).reshape(x.shape)


def group_sort(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, 4, *x.shape[2:]).sort(2)[0].reshape(x.shape)


def residual(x: Tensor, first: nn.Module, norm: nn.Module, second: nn.Module, last: nn.Module) -> Tensor:
    y = F.relu(norm(first(x)))
    return last((F.relu(second(y)) - y).mean((2, 3)))


def after_conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.Flatten(), nn.LazyLinear(4))


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=2, dilation=2, groups=3),
            nn.ReLU6(),
            nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.LazyLinear(4),
        ),
        "Conv ReLU-theta ConvTranspose LeakyReLU Reshape Linear",
    ),
    "circular": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.LazyLinear(4)),
        "Take Take Conv Reshape Linear",
    ),
    "padding": (
        lambda: Lambda(lambda x, last: last(F.pad(x, (1, 2, 0, -1)).flatten(1)), nn.Linear(231, 4)),
        "Take Pad Reshape Linear",
    ),
    "average pools": (
        lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Flatten(), nn.LazyLinear(4)),
        "Pad SumPool Divide Reshape Linear",
    ),
    "max pools": (lambda: after_conv(nn.MaxPool2d(3, 2, 1, ceil_mode=True)), "Conv MaxPool Reshape Linear"),
    "adaptive": (lambda: after_conv(nn.AdaptiveAvgPool2d(1)), "Conv Reduce Linear"),
    "residual": (
        lambda: Lambda(
            residual, nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 4)
        ),
        "Conv ReLU Conv ReLU Affine Add Reduce Linear",
    ),
    "prelu": (lambda: after_conv(nn.PReLU(8)), "Conv LeakyReLU Reshape Linear"),
    "hard tanh": (lambda: after_conv(nn.Hardtanh(-0.5, 0.7)), "Conv Clamp Reshape Linear"),
    "relu-theta": (lambda: after_conv(Theta(8, 6, 6)), "Conv ReLU-theta Reshape Linear"),
    "excess": (
        lambda: Lambda(
            lambda x, c, last: last((F.relu(c(x)) - F.relu(c(x) - 0.5)).flatten(1)),
            nn.Conv2d(3, 8, 3),
            nn.Linear(288, 4),
        ),
        "Conv ReLU-theta Reshape Linear",
    ),
    "halves": (lambda: after_conv(Lambda(halves)), "Conv MaxMin Reshape Linear"),
    "pairs": (lambda: after_conv(Lambda(pairs)), "Conv MaxMin Reshape Linear"),
    "group sort": (lambda: after_conv(Lambda(group_sort)), "Conv GroupSort(4) Reshape Linear"),
    "normalisation": (
        lambda: Lambda(lambda x, last: last(((x - 0.5) / 0.25).flatten(1)), nn.Linear(192, 4)),
        "Affine Affine Reshape Linear",
    ),
    "branches": (
        lambda: Lambda(
            lambda x, a, last: last(torch.cat((a(x), x[:, :1]), 1).mean((2, 3))), nn.Conv2d(3, 4, 1), nn.Linear(5, 4)
        ),
        "Conv Take Concat Reduce Linear",
    ),
    "view": (lambda: Lambda(lambda x, last: last(x.view(x.size(0), -1)), nn.Linear(192, 4)), "Reshape Linear"),
    "permute": (
        lambda: Lambda(lambda x, last: last(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)), nn.Linear(192, 4)),
        "Transpose Reshape Linear",
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 1), nn.Flatten(), nn.LazyLinear(4)),
        "Reshape Transpose Reshape Conv Reshape Linear",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 4))),
        "Reshape Linear",
    ),
    "normalised rows": (
        lambda: Lambda(
            lambda x, last: F.linear(x.flatten(1), F.normalize(last.weight, dim=1), last.bias), nn.Linear(192, 4)
        ),
        "Reshape Linear",
    ),
    "tokens": (
        lambda: Lambda(lambda x, a, last: last(F.relu(a(x.flatten(2))).sum(1)), nn.Linear(64, 8), nn.Linear(8, 4)),
        "Reshape Linear ReLU Reduce Linear",
    ),
}
QUICK = ("residual", "pairs", "relu-theta")
"""What the newer exporter, which takes a second a module, writes in every test run."""


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = MODULES[name][0]().eval()
    with torch.no_grad():
        module(torch.zeros(1, *IMAGE))
    return module


def exported(module: nn.Module, path: Path, *, opset: int, dynamo: bool) -> Path:
    """The file an exporter writes; what it says while it works is not ours to judge."""
    free = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (noise(2, *IMAGE),),
                path,
                input_names=["x"],
                opset_version=opset,
                dynamo=dynamo,
                verbose=False,
                **free,  # type: ignore[arg-type]
            )
    finally:
        logging.disable(logging.NOTSET)
    return path


def check(name: str, path: Path, *, opset: int, dynamo: bool) -> None:
    module = built(name)
    network = load(exported(module, path, opset=opset, dynamo=dynamo))
    images = noise(3, *IMAGE)
    with torch.no_grad():
        assert torch.allclose(network(images), module(images), atol=1e-5)
    assert operators(network) == MODULES[name][1]


@pytest.mark.parametrize("opset", OLD_OPSETS)
@pytest.mark.parametrize("name", MODULES)
def test_the_older_exporter(name: str, opset: int, tmp_path: Path) -> None:
    check(name, tmp_path / "model.onnx", opset=opset, dynamo=False)


@pytest.mark.parametrize("name", QUICK)
def test_the_newer_exporter(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "model.onnx", opset=20, dynamo=True)
    assert (tmp_path / "model.onnx.data").exists()


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("name", MODULES)
def test_the_newer_exporter_on_everything(name: str, opset: int, tmp_path: Path) -> None:
    check(name, tmp_path / "model.onnx", opset=opset, dynamo=True)
