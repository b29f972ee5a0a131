"""Torch modules read from their exported graphs, and compared with the modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llcert.api import from_torch
from llcert.ir import Network

Function = Callable[[Tensor], Tensor]


class Body(nn.Module):
    """A function of images as a module, flattened to logits."""

    def __init__(self, function: Function, *parts: nn.Module, **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1)


def agree(module: nn.Module, *shape: int, tolerance: float = 1e-5) -> Network:
    """The imported network, after it gave what the module gives on three images."""
    torch.manual_seed(1)
    images = torch.randn(3, *shape)
    network = from_torch(module, images[:2])
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images), module(images), atol=tolerance, rtol=tolerance)
    return network


def labels(network: Network) -> list[str]:
    """What the network consists of, reshapes apart."""
    return [n.op.label for n in network.operators() if n.op.label != "Reshape"]


def of(function: Function, *shape: int, **tensors: Tensor) -> list[str]:
    return labels(agree(Body(function, **tensors), *shape))
