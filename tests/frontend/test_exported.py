"""The torch door: every operator and every spelling, against the module itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from llcert.api import from_torch
from llcert.errors import InvalidInput, UnsupportedModel

from .exporting import Body, Function, agree, labels

torch.manual_seed(0)


W = torch.randn(5, 6)


CHANNELS = torch.randn(4, 1, 1)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 12)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), (4, 7, 6)),
    "conv2d same": (nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)), (4, 7, 6)),
    "conv2d valid": (nn.Conv2d(4, 6, 3, padding="valid", bias=False), (4, 7, 6)),
    "conv2d reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 5, 6)),
    "conv2d circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 5, 6)),
    "conv2d replicate": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), (4, 5, 6)),
    "conv1d circular": (nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (4, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 5, 6)),
    "conv transpose 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5)),
    "conv transpose 2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), (4, 5, 4)),
    "linear": (nn.Linear(6, 5), (6,)),
    "linear along rows": (nn.Linear(6, 5), (3, 6)),
    "batch norm 1d": (nn.BatchNorm1d(4), (4,)),
    "batch norm of lines": (nn.BatchNorm1d(4), (4, 5)),
    "batch norm 2d": (nn.BatchNorm2d(4, affine=False), (4, 3, 5)),
    "average": (nn.AvgPool2d(2), (4, 6, 7)),
    "average padded": (nn.AvgPool2d(3, 2, 1), (4, 6, 7)),
    "average ceil": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (4, 6, 7)),
    "average not counting": (nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True), (4, 6, 7)),
    "average divisor": (nn.AvgPool2d(2, divisor_override=3), (4, 6, 6)),
    "average 1d": (nn.AvgPool1d(3, 2, 1), (4, 8)),
    "adaptive to one": (nn.AdaptiveAvgPool2d(1), (4, 6, 5)),
    "adaptive even": (nn.AdaptiveAvgPool2d((3, 2)), (4, 6, 4)),
    "adaptive uneven": (nn.AdaptiveAvgPool2d((4, 7)), (4, 6, 3)),
    "adaptive 1d": (nn.AdaptiveAvgPool1d(3), (4, 7)),
    "max pool": (nn.MaxPool2d(2), (4, 6, 7)),
    "max pool padded": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (4, 6, 7)),
    "max pool dilated": (nn.MaxPool2d(2, 1, dilation=2), (4, 6, 7)),
    "max pool 1d": (nn.MaxPool1d(3, 2, 1), (4, 8)),
    "adaptive max": (nn.AdaptiveMaxPool2d(1), (4, 6, 5)),
    "relu": (nn.ReLU(), (6,)),
    "relu6": (nn.ReLU6(), (6,)),
    "hardtanh": (nn.Hardtanh(-0.5, 0.7), (6,)),
    "leaky": (nn.LeakyReLU(0.1), (6,)),
    "prelu": (nn.PReLU(), (4, 3)),
    "prelu channels": (nn.PReLU(4, 0.3), (4, 3, 2)),
    "prelu flat": (nn.PReLU(4, 0.3), (4,)),
    "sigmoid": (nn.Sequential(nn.Sigmoid(), nn.Linear(6, 3)), (6,)),
    "tanh": (nn.Tanh(), (6,)),
    "hardsigmoid": (nn.Hardsigmoid(), (6,)),
    "threshold": (nn.Threshold(0.2, 0.2), (6,)),
    "pixel shuffle": (nn.PixelShuffle(2), (8, 3, 2)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 4, 6)),
    "zero pad": (nn.ZeroPad2d((1, 2, 0, 1)), (4, 3, 3)),
    "constant pad": (nn.ConstantPad2d((1, -1, 2, 0), 0.5), (4, 3, 3)),
    "reflection pad": (nn.ReflectionPad2d((1, 2, 0, 1)), (4, 3, 3)),
    "replication pad": (nn.ReplicationPad1d((1, 2)), (4, 3)),
    "circular pad": (nn.CircularPad2d((1, 2, 0, 1)), (4, 3, 3)),
    "dropout": (nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()), (4, 3, 3)),
    "flatten": (nn.Flatten(), (4, 3, 3)),
    "unflatten": (nn.Unflatten(1, (2, -1)), (6, 3)),
    "identity": (nn.Identity(), (4, 3)),
    "channel shuffle": (nn.ChannelShuffle(2), (4, 3, 3)),
}


FUNCTIONS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "matmul right": (lambda x: x @ W.T, (6,)),
    "matmul vector": (
        lambda x: x @ W[0].relu() * torch.ones(1, 2) if x.ndim == 1 else (x @ W[0])[:, None] + W[0],
        (6,),
    ),
    "matmul rows": (lambda x: x @ W.T, (3, 6)),
    "matmul left": (lambda x: W @ x, (6, 3)),
    "mm": (lambda x: torch.mm(x, W.t()), (6,)),
    "addmm": (lambda x: torch.addmm(W[:, 0], x, W.t(), beta=2, alpha=0.5), (6,)),
    "add": (lambda x: x + CHANNELS, (4, 3, 2)),
    "add batch of one": (lambda x: x + CHANNELS[None], (4, 3, 2)),
    "add number": (lambda x: 1 + x, (6,)),
    "add scaled": (lambda x: torch.add(x, W[0], alpha=2), (6,)),
    "add branches scaled": (lambda x: torch.add(x, x.relu(), alpha=2), (6,)),
    "add broadcast branches": (lambda x: x + x.mean((2, 3), keepdim=True), (4, 3, 2)),
    "add growing": (lambda x: x + CHANNELS, (1, 3, 2)),
    "sub": (lambda x: (x - CHANNELS) - x.relu(), (4, 3, 2)),
    "rsub": (lambda x: 1 - x, (6,)),
    "rsub scaled": (lambda x: torch.rsub(x.relu(), x, alpha=2), (6,)),
    "rsub from number scaled": (lambda x: torch.rsub(x, 1, alpha=2), (6,)),
    "sub scaled": (lambda x: torch.sub(W[0], x, alpha=2), (6,)),
    "constant minus": (lambda x: W[0] - x, (6,)),
    "mul": (lambda x: 3 * x * CHANNELS, (4, 3, 2)),
    "div": (lambda x: x / (CHANNELS.abs() + 1), (4, 3, 2)),
    "neg": (lambda x: -x, (6,)),
    "cat": (lambda x: torch.cat([x, x.relu(), -x], 1), (4, 3)),
    "cat last": (lambda x: torch.cat([x, x.relu()], -1), (4, 3)),
    "cat constant": (lambda x: torch.cat([x, torch.ones(x.shape[0], 2)], 1), (4,)),
    "stack": (lambda x: torch.stack([x, x.relu()], -1), (4, 3)),
    "split": (lambda x: torch.cat(torch.split(x, 2, 1)[::-1], 1), (5, 3)),
    "split sizes": (lambda x: torch.cat(torch.split(x, [1, 4], 1)[::-1], 1), (5, 3)),
    "chunk": (lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), (5, 3)),
    "slice": (lambda x: x[:, 1:-1:2, ..., :2], (6, 3, 4)),
    "select": (lambda x: x[:, -1], (6, 3)),
    "narrow": (lambda x: x.narrow(1, 2, 3), (6, 3)),
    "index select": (lambda x: x.index_select(1, torch.tensor([3, 0, 0])), (6, 3)),
    "index list": (lambda x: x[:, [3, 0, 1]], (6, 3)),
    "index mask": (lambda x: x[:, torch.tensor([True, False, True])], (3, 2)),
    "unbind": (lambda x: x.unbind(1)[1] + x.unbind(1)[0].relu(), (3, 2)),
    "flip": (lambda x: x.flip((1, 2)), (3, 4)),
    "roll": (lambda x: x.roll((1, -1), (1, 2)), (3, 4)),
    "repeat": (lambda x: x.repeat(1, 2, 1), (3, 4)),
    "view": (lambda x: x.view(x.size(0), 3, -1) + W[:3, :4], (4, 3)),
    "reshape": (lambda x: x.reshape(-1, 12), (4, 3)),
    "view as": (lambda x: x.view_as(x.flatten(1).view(x.shape[0], 2, 6)), (4, 3)),
    "squeeze": (lambda x: x.squeeze(1).squeeze(), (1, 4, 1)),
    "unsqueeze": (lambda x: x.unsqueeze(1).unsqueeze(-1), (4, 3)),
    "permute": (lambda x: x.permute(0, 2, -1, 1), (4, 3, 2)),
    "transpose": (lambda x: x.transpose(1, -1).contiguous(), (4, 3, 2)),
    "movedim": (lambda x: x.movedim(1, -1), (4, 3, 2)),
    "clone detach": (lambda x: x.clone().detach() * 2, (4,)),
    "casts": (lambda x: x.to(torch.float64).float() * 2, (4,)),
    "mean": (lambda x: x.mean((2, 3)), (4, 3, 2)),
    "mean of one axis": (lambda x: x.mean(-1, keepdim=True), (4, 3, 2)),
    "sum": (lambda x: x.sum(1), (4, 3, 2)),
    "maximum of constant": (lambda x: torch.maximum(x, W[0]), (6,)),
    "max with zeros": (lambda x: torch.max(x, torch.zeros_like(x)), (6,)),
    "max with new zeros": (lambda x: torch.max(x, x.new_zeros(x.shape)), (6,)),
    "clamp both": (lambda x: x.clamp(-0.3, 0.4), (6,)),
    "clamp min": (lambda x: x.clamp_min(0.1), (6,)),
    "clamp max": (lambda x: x.clamp(max=0.1), (6,)),
    "clamp tensors": (lambda x: x.clamp(min=-W[0].abs(), max=W[1].abs()), (6,)),
    "clamp contradicting": (lambda x: x.clamp(0.5, -0.5) + x, (6,)),
    "amax": (lambda x: x.amax((2, 3)), (4, 3, 2)),
    "amin": (lambda x: x.amin(1, keepdim=True), (3, 4)),
    "max along": (lambda x: x.max(1).values, (3, 4)),
    "min along": (lambda x: x.min(dim=2, keepdim=True)[0], (3, 2)),
    "abs": (lambda x: x.abs(), (6,)),
    "sort": (lambda x: x.sort(1).values, (5, 2)),
    "sort descending": (lambda x: x.sort(dim=-1, descending=True)[0], (5, 2)),
    "topk": (lambda x: x.topk(2, 1).values, (5, 2)),
    "expand": (lambda x: x.expand(-1, 4, -1), (1, 3)),
    "in place": (lambda x: F.relu_(x * 2).add_(1).mul_(W[0]), (6,)),
    "in place before a skip": (lambda x: (lambda y: F.relu_(y).neg() + y)(x * 2), (6,)),
    "hidden size arithmetic": (lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2] // 2, 2), (4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    module, shape = LAYERS[name]
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean, part.running_var = torch.randn(4), torch.rand(4) + 0.5
    agree(Body(lambda x: module(x), module), *shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    function, shape = FUNCTIONS[name]
    agree(Body(function), *shape)


def test_parameters_are_the_modules_own_and_train_through_the_network() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    network = from_torch(module, torch.zeros(1, 1, 4, 4))
    shared = {id(t) for n in network.operators() for t in n.op.tensors().values()}
    assert {id(p) for p in module.parameters()} <= shared
    network(torch.randn(2, 1, 4, 4)).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_views_of_parameters_train_too() -> None:
    module = Body(
        lambda x: x.flatten(1) @ module.weight + module.bias.view(1, -1), weight=torch.randn(6, 3), bias=torch.randn(3)
    )
    network = agree(module, 6)
    for _ in range(2):
        network(torch.randn(2, 6)).sum().backward()
    assert module.weight.grad is not None
    assert module.bias.grad is not None


def test_values_computed_from_parameters_are_cut_from_training() -> None:
    module = Body(lambda x: x * F.softplus(module.scale), scale=torch.randn(6))
    network = agree(module, 6)
    assert not any(t.requires_grad for n in network.operators() for t in n.op.tensors().values())


def test_modes_of_the_module_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    module[1].eval()
    from_torch(module, torch.zeros(2, 4))
    assert [m.training for m in module.modules()] == [True, True, False, True]


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_are_computed_once_and_the_module_is_untouched(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    module = nn.Sequential(wrap(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network = agree(module, 6)
    assert any("computed from parameters" in note for note in network.notes)
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert any(t is module[2].weight for n in network.operators() for t in n.op.tensors().values())


def test_orthogonal_and_old_weight_norm() -> None:
    agree(nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)), nn.ReLU()), 6)
    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(nn.Linear(6, 5))
    agree(nn.Sequential(old, nn.ReLU()), 6)


def test_graph_module() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()))
    assert labels(agree(traced, 1, 5, 5)) == ["Conv", "ReLU"]


def test_batch_of_one_baked_in() -> None:
    class Baked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x.view(1, 12))

    module, images = Baked(), torch.randn(3, 3, 4)
    network = from_torch(module, images[:1])
    expected = torch.cat([module(image[None]) for image in images])
    torch.testing.assert_close(network(images), expected)


def test_float64() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    module[0].weight.data *= 1 / 3
    images = torch.randn(3, 4, dtype=torch.float64)
    network = from_torch(Body(lambda x: module(x) * 0.1, module), images)
    assert network.dtype == torch.float64
    torch.testing.assert_close(network(images), module(images) * 0.1, atol=1e-15, rtol=1e-14)


@pytest.mark.parametrize("head", [nn.Softmax(1), nn.LogSoftmax(-1), nn.Sigmoid()])
def test_heads_are_stripped_with_a_note(head: nn.Module) -> None:
    images = torch.randn(3, 4)
    body = nn.Linear(4, 3)
    network = from_torch(nn.Sequential(body, head), images)
    torch.testing.assert_close(network(images), body(images))
    assert [type(head).__name__ in note for note in network.notes] == [True, False]
    assert "agrees with the module" in network.notes[1]


def values_in_place_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    F.relu_(y.view(-1, 3, 2))
    return y


def both_results(x: Tensor) -> Tensor:
    values, positions = x.max(1)
    return values + positions


REFUSED: dict[str, tuple[Function, tuple[int, ...], str]] = {
    "product": (lambda x: x * x, (6,), "mul"),
    "quotient": (lambda x: x / (1 + x.abs()), (6,), "div"),
    "square": (lambda x: x**2, (6,), "pow"),
    "gelu": (lambda x: F.gelu(x), (6,), "gelu"),
    "layer norm": (lambda x: F.layer_norm(x, (6,)), (6,), "layer_norm"),
    "group norm": (lambda x: F.group_norm(x, 2), (4, 3), "group_norm"),
    "sign": (lambda x: x.sign(), (6,), "sign"),
    "threshold that jumps": (lambda x: F.threshold(x, 1.0, 0.0), (6,), "threshold"),
    "softmax inside": (lambda x: x.softmax(1) * 2, (6,), "Softmax"),
    "attention": (lambda x: x @ x.transpose(1, 2), (3, 6), "matmul"),
    "across the batch": (lambda x: x - x.mean(0), (6,), "batch axis"),
    "reversed batch": (lambda x: x.flip(0), (6,), "batch axis"),
    "positions": (both_results, (6, 2), "positions"),
    "in place through a view": (values_in_place_through_a_view, (6,), "in place"),
    "half precision": (lambda x: x.half().float(), (6,), "float16"),
    "random": (lambda x: x + torch.rand(6), (6,), "random"),
    "written in parts": (lambda x: torch.zeros(x.shape[0], 6).copy_(x), (6,), "copy"),
    "unknown": (lambda x: torch.cumsum(x, 1), (6,), "cumsum"),
    "data-dependent": (lambda x: x * 2 if x.sum() > 0 else x, (6,), "cannot capture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    function, shape, named = REFUSED[name]
    with pytest.raises(UnsupportedModel) as caught:
        from_torch(Body(function), torch.zeros(2, *shape))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("Body: ")
    assert named in message


def test_refused_without_running_statistics_and_with_nan() -> None:
    with pytest.raises(UnsupportedModel, match="running statistics"):
        from_torch(nn.BatchNorm1d(4, track_running_stats=False), torch.zeros(2, 4))
    broken = nn.Linear(4, 3)
    broken.weight.data[0, 0] = torch.nan
    with pytest.raises(UnsupportedModel, match="NaN"):
        from_torch(broken, torch.zeros(2, 4))


def test_arguments_that_are_no_module_or_no_batch() -> None:
    bad: list[tuple[Any, Any]] = [
        (lambda x: x, torch.zeros(1, 3)),
        (nn.Identity(), torch.zeros(3)),
        (nn.Identity(), torch.zeros(1, 3, dtype=torch.int64)),
        (nn.Identity(), [1.0]),
    ]
    for module, example in bad:
        with pytest.raises(InvalidInput):
            from_torch(module, example)


def test_one_output_and_one_input() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x + 1

    with pytest.raises(UnsupportedModel, match="returns 2 values"):
        from_torch(Two(), torch.zeros(1, 3))


def test_one_output_inside_a_container() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> dict[str, tuple[Tensor]]:
            return {"logits": (x * 2,)}

    assert labels(from_torch(Wrapped(), torch.zeros(1, 3))) == ["Affine"]
