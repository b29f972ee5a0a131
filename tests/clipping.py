"""Small networks whose activations get thresholds, in tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from drawing import normal, normal32
from torch import Tensor

from llcert.ir import Activation, Input, Network, Node, Op, apply
from llcert.ops import Add, BatchNorm, Clamp, Conv, Linear, MaxMin, Reshape, relu

IMAGE = (2, 4, 4)


def pictures(count: int = 20, seed: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, *IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def conv(channels: int, node: Node, seed: int, name: str = "") -> Node:
    """A 3x3 convolution that keeps the size."""
    weight = normal32(channels, node.shape[0], 3, 3, seed=seed) / (9 * node.shape[0]) ** 0.5
    return apply(Conv(weight, normal32(channels, seed=seed + 1), (1, 1), (1, 1)), node, name=name)


def batch_norm(node: Node, seed: int = 0, dtype: torch.dtype = torch.float32) -> Node:
    c, spatial = node.shape[0], len(node.shape) - 1
    values = (normal(c, seed=seed + i, dtype=dtype) for i in range(3))
    variance = normal(c, seed=seed + 3, dtype=dtype).square() + 0.1
    return apply(BatchNorm(*values, variance, spatial=spatial), node, name="norm")


def dense(width: int, node: Node, seed: int, name: str = "") -> Node:
    flat = node if len(node.shape) == 1 else apply(Reshape((math.prod(node.shape),)), node)
    size = flat.shape[0]
    return apply(Linear(normal32(width, size, seed=seed) / size**0.5, normal32(width, seed=seed + 1)), flat, name=name)


def around(*ops: Op) -> Network:
    """Convolution, the first activation, dense layer, the second, logits; one of the two may be left out."""
    node = conv(4, apply(Input(IMAGE), name="pixels"), 1, "first")
    node = apply(ops[0], node, name="inner")
    node = dense(6, node, 3, "second")
    node = apply(ops[-1], node, name="outer") if len(ops) > 1 else node
    return Network(dense(3, node, 7, "last"), "pixels", "scores", {"eps": "0.5", "data": "mnist"}, ("note",), "net")


def residual() -> Network:
    image = apply(Input(IMAGE), name="pixels")
    start = apply(relu(), batch_norm(conv(4, image, 1), 20), name="stem")
    inner = apply(relu(), batch_norm(conv(4, start, 3), 30), name="inside")
    joined = apply(relu(), apply(Add(), batch_norm(conv(4, inner, 5), 40), start), name="joined")
    return Network(dense(3, joined, 7), source="residual")


def bounds(*shape: int, seed: int = 9) -> Tensor:
    """Some that bind and some that do not."""
    return normal32(*shape, seed=seed).abs() + 0.05


ZERO = torch.zeros(())
NETWORKS: dict[str, Callable[[], Network]] = {
    "relu": lambda: around(relu(), relu()),
    "relu of tensors": lambda: around(Clamp(torch.zeros(4, 4, 4)), Clamp(torch.zeros(6))),
    "relu6": lambda: around(Clamp(ZERO, torch.tensor(6.0)), Clamp(ZERO, torch.tensor(6.0))),
    "low ceiling": lambda: around(Clamp(ZERO, torch.tensor(0.3)), Clamp(ZERO, torch.tensor(0.1))),
    "relu-theta": lambda: around(Clamp(ZERO, bounds(4, 4, 4)), Clamp(ZERO, bounds(6))),
    "relu-theta of channels": lambda: around(Clamp(ZERO, bounds(4, 1, 1)), relu()),
    "relu-theta of columns": lambda: around(Clamp(ZERO, bounds(4)), relu()),
    "shut": lambda: around(Clamp(ZERO, ZERO), relu()),
    "maxmin": lambda: around(MaxMin(), MaxMin()),
    "maxmin pairs": lambda: around(MaxMin(0, True), MaxMin(0, True)),
    "maxmin of columns": lambda: around(MaxMin(2, True), MaxMin(0)),
    "half clipped maxmin": lambda: around(MaxMin(0, False, bounds(2, 4, 4)), MaxMin(0, True, None, -bounds(3))),
    "clipped maxmin": lambda: around(MaxMin(1, False, bounds(4, 2, 4), -bounds(4)), MaxMin(0, True, ZERO, ZERO)),
    "beside others": lambda: around(Clamp(torch.tensor(-1.0), torch.tensor(1.0)), relu()),
    "residual": residual,
}


def activations(network: Network) -> list[Node]:
    return [n for n in network.operators() if isinstance(n.op, Activation)]


def value(network: Network, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)
