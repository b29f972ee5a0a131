"""Random small networks over every operator, with residual and concatenated branches, from one integer seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from drawing import Draw
from torch import Tensor

from llcert.ir import Input, Network, Node, apply, topological
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    GroupSort,
    Leaky,
    Linear,
    MaxMin,
    MaxPool,
    Pad,
    Reduce,
    Reshape,
    Sigmoid,
    SumPool,
    Take,
    Tanh,
    Transpose,
    relu,
)

Layer = Callable[[Node], Node]


def random_network(seed: int, classes: int = 4) -> Network:
    """A network in float64 of 2 to 6 random layers; the same seed gives the same network."""
    draw = Draw(seed)
    shape = draw.choices.choice([(5,), (8,), (2, 9), (1, 6, 6), (3, 5, 5), (4, 4, 6)])
    node = apply(Input(shape, torch.float64))
    for _ in range(draw.choices.randint(2, 6)):
        node = _step(draw, node)
    flat = apply(Reshape((entries(node),)), node)
    return Network(apply(Linear(scaled(draw, classes, entries(node)), draw.normal(classes)), flat))


def in_format(network: Network, dtype: torch.dtype) -> Network:
    """The same network with every value and every parameter in one number format."""
    new: dict[Node, Node] = {}
    for node in topological(network.output):
        op = Input(node.shape, dtype) if isinstance(node.op, Input) else node.op.to("cpu", dtype)
        new[node] = apply(op, *(new[i] for i in node.inputs), name=node.name)
    return replace(network, output=new[network.output])


def random_image(network: Network, seed: int) -> Tensor:
    """One image of the network's input shape with a batch axis, in [0, 1], float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, *network.input.shape, generator=generator, dtype=torch.float64)


def _step(draw: Draw, node: Node) -> Node:
    kind = draw.choices.random()
    if kind < 0.15:
        return _residual(draw, node)
    if kind < 0.25:
        return _concatenated(draw, node)
    linear, nonlinear = _linear_layers(draw, node), activations(draw, node)
    if kind < 0.65:
        node = draw.choices.choice(linear)(node)
        nonlinear = activations(draw, node)
    return draw.choices.choice(nonlinear)(node) if draw.choices.random() < 0.8 else node


def _residual(draw: Draw, node: Node) -> Node:
    inner = apply(_same_shape(draw, node), node)
    inner = draw.choices.choice(activations(draw, inner, keep_shape=True))(inner)
    if draw.choices.random() < 0.5:
        inner = apply(_same_shape(draw, inner), inner)
    return apply(Add(), inner, node)


def _concatenated(draw: Draw, node: Node) -> Node:
    first = draw.choices.choice(activations(draw, node, keep_shape=True))(node)
    second = apply(_same_shape(draw, node), node)
    if draw.choices.random() < 0.5:
        second = draw.choices.choice(activations(draw, second, keep_shape=True))(second)
    return apply(Concat(0), first, second)


def _same_shape(draw: Draw, node: Node) -> Linear | Conv:
    channels = node.shape[0]
    if len(node.shape) == 1:
        return Linear(scaled(draw, channels, channels), draw.normal(channels))
    spatial = len(node.shape) - 1
    ones = (1,) * spatial
    return Conv(convolution_kernel(draw, channels, channels, (3,) * spatial), draw.normal(channels), ones, ones, ones)


def _linear_layers(draw: Draw, node: Node) -> list[Layer]:
    shape, rank = node.shape, len(node.shape)
    last = shape[-1]
    order = draw.choices.sample(range(rank), rank)
    axis = draw.choices.randrange(rank)
    taken = tuple(draw.choices.choices(range(shape[axis]), k=max(1, shape[axis] - 1)))
    layers: list[Layer] = [
        lambda n: apply(Linear(scaled(draw, draw.choices.randint(2, 6), last), None), n),
        lambda n: apply(Affine(draw.normal(*shape), draw.normal(*shape[-1:])), n),
        lambda n: apply(Transpose(tuple(order)), n),
        lambda n: apply(Take(axis, taken), n),
        lambda n: apply(Pad(tuple(draw.choices.choices([(0, 1), (1, 0), (0, 0)], k=rank)), draw.choices.random()), n),
        lambda n: apply(_batch_norm(draw, n), n),
    ]
    if rank == 1:
        layers.append(lambda n: apply(Expand((2, *shape)), n))
    if rank > 1:
        layers.append(lambda n: apply(Reduce((axis,), 1 / shape[axis]), n))
        layers.append(lambda n: _convolution(draw, n))
        layers.append(lambda n: pooling(draw, n))
    return layers


def activations(draw: Draw, node: Node, *, keep_shape: bool = False) -> list[Layer]:
    shape = node.shape
    layers: list[Layer] = [
        lambda n: apply(relu(), n),
        lambda n: apply(Clamp(torch.zeros(()), draw.positive(*shape)), n),
        lambda n: apply(Clamp(torch.tensor(-1.0), torch.tensor(0.7)), n),
        lambda n: apply(Clamp(None, draw.positive(*shape)), n),
        lambda n: apply(Leaky(torch.tensor(draw.choices.choice([0.1, -1.0, 1.5, 0.0, -0.3]))), n),
        lambda n: apply(Leaky(draw.normal(*shape[:1], *[1] * (len(shape) - 1))), n),
        lambda n: apply(Sigmoid(), n),
        lambda n: apply(Tanh(), n),
    ]
    even = [a for a, size in enumerate(shape) if size % 2 == 0]
    if even:
        axis = draw.choices.choice(even)
        half = tuple(s // 2 if i == axis else s for i, s in enumerate(shape))
        pairs = draw.choices.random() < 0.5
        layers.append(lambda n: apply(MaxMin(axis, pairs), n))
        layers.append(lambda n: apply(MaxMin(axis, pairs, draw.positive(*half), -draw.positive(*half)), n))
        layers.append(lambda n: apply(GroupSort(axis, 2, draw.choices.random() < 0.5), n))
        layers.append(lambda n: apply(GroupSort(axis, shape[axis]), n))
    if len(shape) > 1 and not keep_shape:
        layers.append(lambda n: _max_pool(draw, n))
    return layers


def _convolution(draw: Draw, node: Node) -> Node:
    channels, spatial = node.shape[0], len(node.shape) - 1
    stride = (draw.choices.choice([1, 1, 2]),) * spatial
    if draw.choices.random() < 0.3:
        kernel = draw.normal(channels, 2, *(2,) * spatial) / (4 * channels) ** 0.5
        return apply(ConvTranspose(kernel, None, stride, (0,) * spatial, (0,) * spatial, (1,) * spatial), node)
    depthwise = draw.choices.random() < 0.3
    out = channels if depthwise else draw.choices.randint(2, 4)
    kernel = convolution_kernel(draw, out, 1 if depthwise else channels, (3,) * spatial)
    groups = channels if depthwise else 1
    dilation = (2,) * spatial if min(node.shape[1:]) > 4 and draw.choices.random() < 0.3 else (1,) * spatial
    return apply(Conv(kernel, draw.normal(out), stride, dilation, dilation, groups), node)


def pooling(draw: Draw, node: Node) -> Node:
    spatial = len(node.shape) - 1
    kernel = tuple(min(2, s) for s in node.shape[1:])
    return apply(SumPool(kernel, (draw.choices.choice([1, 2]),) * spatial, 0.25), node)


def _max_pool(draw: Draw, node: Node) -> Node:
    spatial = len(node.shape) - 1
    kernel = tuple(min(draw.choices.choice([2, 3]), s) for s in node.shape[1:])
    padding = ((0, draw.choices.choice([0, 1])),) * spatial
    return apply(MaxPool(kernel, (draw.choices.choice([1, 2]),) * spatial, padding, (1,) * spatial), node)


def _batch_norm(draw: Draw, node: Node) -> BatchNorm:
    channels = node.shape[0]
    values = draw.normal(channels), draw.normal(channels), draw.normal(channels), draw.positive(channels)
    return BatchNorm(*values, spatial=len(node.shape) - 1)


def scaled(draw: Draw, rows: int, columns: int) -> Tensor:
    return draw.normal(rows, columns) / columns**0.5


def convolution_kernel(draw: Draw, out: int, inner: int, kernel: tuple[int, ...]) -> Tensor:
    size = inner
    for k in kernel:
        size *= k
    return draw.normal(out, inner, *kernel) / size**0.5


def entries(node: Node) -> int:
    size = 1
    for s in node.shape:
        size *= s
    return size
