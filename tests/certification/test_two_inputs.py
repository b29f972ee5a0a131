"""Networks of two inputs, where a disc can be sampled densely: no false certificate, and most true ones found."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from seeds import sizes
from torch import Tensor, nn

from llcert.certification import Certifier, Settings, Verdict
from llcert.ir import Activation, Input, Network, apply
from llcert.ops import Clamp, Leaky, Linear, MaxMin, relu

EPS = 0.03
KINDS = {
    "relu": relu(),
    "relu-theta": Clamp(torch.zeros(()), torch.tensor(1.0)),
    "maxmin": MaxMin(0),
    "leaky": Leaky(torch.tensor(0.1)),
}


@pytest.mark.parametrize("points", sizes(120, 300))
@pytest.mark.parametrize("kind", KINDS)
def test_discs(kind: str, points: int) -> None:
    phi = KINDS[kind]
    network = _network(_trained(phi), phi)
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(points, 2, generator=generator, dtype=torch.float64)
    labels = network(centres).argmax(1)
    certifier = Certifier.of(network, Settings(EPS, stages=("global", "local", "crown-ball")), dtype=torch.float64)
    samples = certifier(centres, labels, torch.arange(points)).samples
    certified = torch.tensor([s.verdict is Verdict.CERTIFIED for s in samples])
    moved = network((centres[:, None] + _disc()).reshape(-1, 2)).argmax(1).reshape(points, -1)
    robust = (moved == labels[:, None]).all(1)
    assert not (certified & ~robust).any(), "a certificate is false"
    share = float((certified & robust).sum() / robust.sum())
    assert share >= 0.95, f"only {share:.1%} of the truly robust points are certified"


def _disc() -> Tensor:
    """8,192 points of the disc of radius EPS, 256 of them on its rim."""
    angle = torch.arange(256, dtype=torch.float64) * 2 * math.pi / 256
    rim = torch.stack([angle.cos(), angle.sin()], 1)
    return (torch.linspace(0, EPS, 33, dtype=torch.float64)[1:, None, None] * rim).reshape(-1, 2)


def _trained(phi: Activation) -> list[nn.Linear]:
    """Three dense layers that learned three spiral arms, the product of their norms kept in check."""
    torch.manual_seed(0)
    layers = [nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 3)]
    generator = torch.Generator().manual_seed(0)
    arm = torch.randint(3, (1000,), generator=generator)
    distance = torch.rand(1000, generator=generator) * 0.35 + 0.1
    angle = distance * 9 + arm * 2 * math.pi / 3 + torch.randn(1000, generator=generator) * 0.15
    points = torch.stack([0.5 + distance * angle.cos(), 0.5 + distance * angle.sin()], 1)
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], 1e-2)
    for _ in range(300):
        product = math.prod(torch.linalg.matrix_norm(layer.weight, 2) for layer in layers)
        logits = layers[2](phi(layers[1](phi(layers[0](points)))))
        loss = F.cross_entropy(logits, arm) + 1e-3 * product
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return layers


def _network(layers: list[nn.Linear], phi: Activation) -> Network:
    node = apply(Input((2,)))
    for number, layer in enumerate(layers):
        node = apply(Linear(layer.weight.detach().double(), layer.bias.detach().double()), node)
        if number < 2:
            node = apply(phi.to("cpu", torch.float64), node)
    return Network(node)
