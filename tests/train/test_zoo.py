"""The zoo: shapes and sizes of every network, the activations against their formulas, and their ONNX export."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from llcert.errors import InvalidInput
from llcert_train.zoo import (
    ARCHITECTURES,
    ActivationKind,
    ClippedMaxMin,
    ClippedReLU,
    MaxMin,
    Residual,
    build,
)

KINDS = list(ActivationKind)
PAPER = {
    "2C2F": ((1, 28, 28), 10),
    "4C3F": ((3, 32, 32), 10),
    "6C2F": ((3, 32, 32), 10),
    "7C1F": ((3, 64, 64), 200),
    "8C2F": ((3, 64, 64), 200),
}


def weights(net: nn.Module) -> int:
    """Entries of weights and biases, thresholds not counted."""
    return sum(p.numel() for name, p in net.named_parameters() if name.endswith(("weight", "bias")))


def conv(before: int, width: int, kernel: int = 3) -> int:
    return width * (before * kernel**2 + 1)


def dense(before: int, width: int) -> int:
    return width * (before + 1)


TINY_FOUR = conv(3, 64) + conv(64, 64) + conv(64, 64, 4) + conv(64, 128)
EXPECTED = {
    "2C2F": conv(1, 16, 4) + conv(16, 32, 4) + dense(32 * 49, 100) + dense(100, 10),
    "4C3F": conv(3, 32)
    + conv(32, 32, 4)
    + conv(32, 64)
    + conv(64, 64, 4)
    + dense(4096, 512)
    + dense(512, 512)
    + dense(512, 10),
    "6C2F": conv(3, 32)
    + conv(32, 32)
    + conv(32, 32, 4)
    + conv(32, 64)
    + conv(64, 64)
    + conv(64, 64, 4)
    + dense(4096, 512)
    + dense(512, 10),
    "7C1F": TINY_FOUR + conv(128, 128, 4) + conv(128, 256) + conv(256, 256, 4) + dense(256 * 36, 200),
    "8C2F": TINY_FOUR
    + conv(128, 128)
    + conv(128, 128, 4)
    + conv(128, 256)
    + conv(256, 256, 4)
    + dense(256 * 36, 256)
    + dense(256, 200),
}


@pytest.mark.parametrize(("arch", "kind"), list(itertools.product(PAPER, KINDS)))
def test_the_papers_networks_have_its_sizes(arch: str, kind: str) -> None:
    shape, classes = PAPER[arch]
    with torch.device("meta"):
        net = build(arch, input_shape=shape, classes=classes, activation=kind)
        assert net(torch.empty(2, *shape)).shape == (2, classes)
    assert weights(net) == EXPECTED[arch]


@pytest.mark.parametrize(("arch", "kind"), list(itertools.product(ARCHITECTURES, KINDS)))
@pytest.mark.parametrize("shape", [(1, 26, 30), (4, 32, 32)])
def test_any_image_and_class_count(arch: str, kind: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        net = build(arch, input_shape=shape, classes=3, activation=kind)
        assert net(torch.empty(5, *shape)).shape == (5, 3)


@pytest.mark.parametrize("shape", [(2,), (7, 3), (1, 8, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_dense_networks_take_any_shape(shape: tuple[int, ...], kind: str) -> None:
    net = build("mlp", input_shape=shape, classes=2, activation=kind)
    assert net(torch.zeros(3, *shape)).shape == (3, 2)
    assert [layer.out_features for layer in net if isinstance(layer, nn.Linear)] == [*ARCHITECTURES["mlp"].dense, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_are_per_neuron_and_start_as_asked(kind: str) -> None:
    net = build("small-conv", input_shape=(1, 8, 8), classes=10, activation=kind, threshold=0.7)
    found = [tuple(p.shape) for name, p in net.named_parameters() if not name.endswith(("weight", "bias"))]
    per_neuron = [(16, 8, 8), (32, 4, 4), (64,)]
    halves = [(width // 2, *rest) for width, *rest in per_neuron for _ in range(2)]
    assert found == {"relu-theta": per_neuron, "maxmin-clipped": halves}.get(kind, [])
    for module in net:
        if isinstance(module, ClippedReLU):
            assert (module.theta == 0.7).all()
        if isinstance(module, ClippedMaxMin):
            assert (module.t_max == 0.7).all()
            assert (module.t_min == -0.7).all()


def test_a_residual_block_adds_its_input() -> None:
    net = build("residual-bn", input_shape=(1, 8, 8), classes=10).eval()
    block = next(layer for layer in net if isinstance(layer, Residual))
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x), block.body(x) + x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "5C5F"}, "unknown architecture"),
        ({"activation": "gelu"}, "unknown activation"),
        ({"classes": 0}, "must be positive"),
        ({"input_shape": ()}, "must be positive"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": -1.0}, "threshold"),
        ({"arch": "4C3F", "input_shape": (64,)}, r"channels, height, width"),
        ({"arch": "8C2F"}, "too small"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"arch": "mlp", "input_shape": (1, 8, 8), "classes": 10, **arguments}
    with pytest.raises(InvalidInput, match=message):
        build(**given)  # type: ignore[arg-type]


def pairs(z: Tensor) -> tuple[Tensor, Tensor]:
    half = z.shape[1] // 2
    return z[:, :half], z[:, half:]


def test_clipped_relu_formula() -> None:
    activation = ClippedReLU((6, 2, 2))
    activation.theta.data.uniform_(0, 2)
    z = torch.linspace(-4, 4, 3 * 24).reshape(3, 6, 2, 2)
    inside = (z > 0) & (z < activation.theta)
    expected = torch.where(inside, z, torch.where(z <= 0, torch.zeros_like(z), activation.theta.expand_as(z)))
    assert torch.equal(activation(z), expected)


def test_negative_thresholds_are_projected_to_zero() -> None:
    activation = ClippedReLU((3,))
    activation.theta.data.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    activation.project()
    assert activation.theta.tolist() == [0.0, 0.0, 2.0]
    assert activation.theta.requires_grad


def test_maxmin_formula() -> None:
    z = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
    (a, b), (larger, smaller) = pairs(z), pairs(MaxMin()(z))
    assert torch.equal(larger, torch.where(a > b, a, b))
    assert torch.equal(smaller, torch.where(a > b, b, a))


def test_clipped_maxmin_formula() -> None:
    activation = ClippedMaxMin((6, 2))
    activation.t_max.data.uniform_(0, 1)
    activation.t_min.data.uniform_(-1, 0)
    z = 2 * torch.randn(50, 6, 2, generator=torch.Generator().manual_seed(0))
    larger, smaller = pairs(activation(z))
    high, low = pairs(MaxMin()(z))
    assert torch.equal(larger, torch.where(high > activation.t_max, activation.t_max, high))
    assert torch.equal(smaller, torch.where(low < activation.t_min, activation.t_min, low))


@pytest.mark.parametrize("kind", KINDS)
def test_export_agrees_with_onnxruntime(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("small-conv", input_shape=(1, 8, 8), classes=10, activation=kind, threshold=0.3).eval()
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        # torch.export copies its own deprecated tree types
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 8, 8),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in 1, 7:
        x = torch.rand(batch, 1, 8, 8)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, net(x).numpy(), rtol=1e-5, atol=1e-5)


def test_orthogonal_starts() -> None:
    net = build("6C2F-light", input_shape=(3, 32, 32), classes=10, activation="maxmin", initial="orthogonal")
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            matrix = layer.weight.detach().flatten(1).double()
            matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            side = layer.kernel_size[0] if isinstance(layer, nn.Conv2d) else 1
            torch.testing.assert_close(side * matrix @ matrix.T, torch.eye(len(matrix)).double(), atol=1e-5, rtol=0)


def test_a_mean_colour_is_taken_off_and_written_to_the_file(tmp_path: Path) -> None:
    mean = torch.tensor([0.1, 0.4, 0.7]).reshape(3, 1, 1)
    torch.manual_seed(0)
    centred = build("tiny-conv", input_shape=(3, 8, 8), classes=4, mean=mean)
    torch.manual_seed(0)
    plain = build("tiny-conv", input_shape=(3, 8, 8), classes=4)
    images = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(centred(images), plain(images - mean))
    assert not any(torch.equal(p, mean) for p in centred.parameters())
