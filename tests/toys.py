"""Tiny networks with an activation of every kind that training knows, and data they can learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from drawing import Draw
from nodes import flattened
from torch import Tensor

from llcert.data import Dataset
from llcert.data.dataset import ArrayImages
from llcert.ir import Input, Network, Node, apply
from llcert.ops import (
    Add,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    Leaky,
    Linear,
    MaxMin,
    Tanh,
    relu,
)

CLASSES = 4


class _Draw(Draw):
    """Seeded layers in float64."""

    def dense(self, node: Node, out: int) -> Node:
        columns = node.shape[0]
        return apply(Linear(self.normal(out, columns, scale=columns**-0.5), self.normal(out, scale=0.3)), node)

    def conv(self, node: Node, out: int, *, kernel: int = 3, stride: int = 1) -> Node:
        scale = (node.shape[0] * kernel**2) ** -0.5
        weight = self.normal(out, node.shape[0], kernel, kernel, scale=scale)
        return apply(Conv(weight, self.normal(out, scale=0.3), (stride, stride), (1, 1)), node)

    def theta(self, *shape: int) -> Clamp:
        return Clamp(torch.zeros((), dtype=torch.float64), self.positive(*shape, least=0.3).requires_grad_())

    def clipped(self, *shape: int) -> MaxMin:
        return MaxMin(
            0,
            False,
            self.positive(*shape, least=0.3).requires_grad_(),
            (-self.positive(*shape, least=0.3)).requires_grad_(),
        )


def _linear(draw: _Draw) -> Node:
    return draw.dense(apply(Input((5,), torch.float64)), CLASSES)


def _relu(draw: _Draw) -> Node:
    node = apply(relu(), draw.dense(apply(Input((5,), torch.float64)), 6))
    return draw.dense(apply(relu(), draw.dense(node, 5)), CLASSES)


def _theta(draw: _Draw) -> Node:
    node = apply(draw.theta(6), draw.dense(apply(Input((5,), torch.float64)), 6))
    return draw.dense(apply(draw.theta(5), draw.dense(node, 5)), CLASSES)


def _one_hidden_theta(draw: _Draw) -> Node:
    return draw.dense(apply(draw.theta(6), draw.dense(apply(Input((5,), torch.float64)), 6)), CLASSES)


def _one_hidden_clipped(draw: _Draw) -> Node:
    return draw.dense(apply(draw.clipped(3), draw.dense(apply(Input((5,), torch.float64)), 6)), CLASSES)


def _conv(draw: _Draw) -> Node:
    node = apply(draw.theta(3, 1, 1), draw.conv(apply(Input((1, 4, 4), torch.float64)), 3))
    return draw.dense(flattened(apply(relu(), draw.conv(node, 2, kernel=4, stride=2))), CLASSES)


def _conv_maxmin(draw: _Draw) -> Node:
    node = apply(MaxMin(), draw.conv(apply(Input((1, 4, 4), torch.float64)), 4))
    return draw.dense(flattened(apply(MaxMin(), draw.conv(node, 2, kernel=4, stride=2))), CLASSES)


def _conv_clipped(draw: _Draw) -> Node:
    node = apply(draw.clipped(2, 4, 4), draw.conv(apply(Input((1, 4, 4), torch.float64)), 4))
    node = apply(draw.clipped(1, 2, 2), draw.conv(node, 2, kernel=4, stride=2))
    return draw.dense(flattened(node), CLASSES)


def _residual(draw: _Draw) -> Node:
    first = apply(relu(), draw.dense(apply(Input((5,), torch.float64)), 5))
    inner = draw.dense(apply(draw.theta(6), draw.dense(first, 6)), 5)
    return draw.dense(apply(relu(), apply(Add(), inner, first)), CLASSES)


def _late_residual(draw: _Draw) -> Node:
    """The last linear map has two sources."""
    first = apply(relu(), draw.dense(apply(Input((5,), torch.float64)), 5))
    second = apply(draw.theta(5), draw.dense(first, 5))
    return draw.dense(apply(Add(), first, second), CLASSES)


def _concatenated(draw: _Draw) -> Node:
    first = apply(relu(), draw.dense(apply(Input((5,), torch.float64)), 4))
    both = apply(Concat(0), apply(draw.theta(3), draw.dense(first, 3)), first)
    return draw.dense(apply(MaxMin(), draw.dense(both, 4)), CLASSES)


def _batch_norm(draw: _Draw) -> Node:
    node = draw.conv(apply(Input((1, 4, 4), torch.float64)), 3)
    norm = BatchNorm(
        draw.positive(3, least=0.3), draw.normal(3, scale=0.3), draw.normal(3, scale=0.3), draw.positive(3, least=0.3)
    )
    node = apply(relu(), apply(norm, node))
    return draw.dense(flattened(apply(relu(), draw.conv(node, 2, kernel=4, stride=2))), CLASSES)


def _smooth(draw: _Draw) -> Node:
    node = apply(Tanh(), draw.dense(apply(Input((5,), torch.float64)), 6))
    return draw.dense(apply(Leaky(torch.tensor(0.2, dtype=torch.float64)), draw.dense(node, 5)), CLASSES)


TOYS: Mapping[str, Callable[[_Draw], Node]] = {
    "linear": _linear,
    "dense ReLU": _relu,
    "dense ReLU-theta": _theta,
    "one hidden ReLU-theta": _one_hidden_theta,
    "one hidden clipped MaxMin": _one_hidden_clipped,
    "conv": _conv,
    "conv MaxMin": _conv_maxmin,
    "conv clipped MaxMin": _conv_clipped,
    "residual": _residual,
    "late residual": _late_residual,
    "concatenated": _concatenated,
    "batch norm": _batch_norm,
    "smooth": _smooth,
}


def toy(name: str, seed: int = 0) -> Network:
    """A random network of that kind in float64, whose classes are all likely; the same seed gives the same network."""
    draw = _Draw(seed)
    network = Network(TOYS[name](draw))
    images = torch.rand(200, *network.input.shape, generator=draw.generator, dtype=torch.float64)
    last = network.output.op
    assert isinstance(last, Linear)
    assert last.bias is not None
    with torch.no_grad():
        level = replace(last, bias=last.bias - network(images).mean(0))
    return Network(replace(network.output, op=level))


def toy_batch(network: Network, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images `[count, *shape]` in [0, 1], float64, and labels, most of which the network gets right."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *network.input.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % network.classes
    return images, labels


def blobs(per_class: int, *, classes: int = 3, side: int = 4, seed: int = 0, noise: float = 0.05) -> Dataset:
    """Bytes `[images, 1, side, side]` around one far-off centre a class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(12345).integers(0, 2, (classes, 1, side, side)) * 0.8 + 0.1
    labels = np.arange(per_class * classes, dtype=np.int64) % classes
    values = centres[labels] + noise * rng.standard_normal((len(labels), 1, side, side))
    pixels = np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
    return Dataset("blobs", "train", ArrayImages(pixels, 255.0), labels, classes, (1, side, side))


def blobs_file(path: Path, per_class: int, *, classes: int = 3, side: int = 4, seed: int = 0) -> Path:
    """The same as an `.npz` file."""
    data = blobs(per_class, classes=classes, side=side, seed=seed)
    assert isinstance(data.images, ArrayImages)
    np.savez(path, x=data.images.values, y=data.labels)
    return path
