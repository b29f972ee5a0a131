"""Surgery on the graph before training: thresholds for activations, MaxMin for ReLU, batch norm folded.

Everything else of a network stays: the other operators, their order, their names, input and output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.ir import Network, Node, Op, topological
from llcert.ops import BatchNorm, Clamp, Conv, Linear, MaxMin
from llcert.ops.affine import channelwise

_SMALLEST = 0.1
"""Thresholds below this share of their activation's median are raised to it: neurons that were off can wake up."""


def with_maxmin(network: Network) -> Network:
    """The network with a MaxMin of channel halves for each ReLU; another function, to be trained anew.

    One that ends in a ReLU keeps it: logits must not change places. Raises InvalidInput where there is nothing to pair.
    """
    inner = [n for n in network.operators() if n is not network.output]
    if not any(_is_relu(n.op) or isinstance(n.op, MaxMin) for n in inner):
        raise InvalidInput(f"{network.source or 'the network'}: no ReLU and no MaxMin; use --activation keep")

    def swapped(node: Node) -> Op:
        if not _is_relu(node.op) or node is network.output:
            return node.op
        if not node.shape or node.shape[0] % 2:
            where, shape = node.name or "a ReLU", node.shape
            raise InvalidInput(
                f"activation maxmin: {where} of {shape} values cannot be paired; use --activation relu-theta"
            )
        return MaxMin()

    return _rebuilt(network, swapped)


def clipped(network: Network, batches: Iterable[Tensor], *, quantile: float, per_channel: bool) -> Network:
    """The network with learnable thresholds on every ReLU and MaxMin, where almost no image reaches them.

    batches: training images `[batch, *input shape]`, pixel units. quantile: of what each neuron does on them, where its
    threshold starts; 1 is the largest value, which changes nothing for these images. per_channel: one threshold a
    channel (the first axis), the largest of its neurons'. Thresholds that the network has already become learnable.
    Logits get none.
    Raises InvalidInput where there is nothing to clip.
    """
    inner = (n for n in network.operators() if n is not network.output)
    chosen = [n for n in inner if _is_relu(n.op) or isinstance(n.op, MaxMin)]
    if not chosen:
        raise InvalidInput(
            f"{network.source or 'the network'}: no ReLU and no MaxMin to put a threshold on; use --activation keep"
        )
    tops = _highest(network, chosen, batches, quantile)
    raised = {node: [_raised(top) for top in own] for node, own in tops.items()}
    if per_channel:
        raised = {node: [_largest_of_channel(top) for top in own] for node, own in raised.items()}
    ops = {node: _with_thresholds(node.op, raised[node]) for node in chosen}
    return _rebuilt(network, lambda node: ops.get(node, node.op))


def folded(network: Network) -> Network:
    """The network with each batch norm inside the convolution or dense layer in front, if nothing else reads that."""
    users: dict[Node, int] = {}
    for node in network.operators():
        for i in node.inputs:
            users[i] = users.get(i, 0) + 1
    new: dict[Node, Node] = {}
    for node in topological(network.output):
        inputs = tuple(new[i] for i in node.inputs)
        layer = inputs[0] if isinstance(node.op, BatchNorm) and users[node.inputs[0]] == 1 else None
        op = _absorbed(layer, node.op) if isinstance(node.op, BatchNorm) and layer is not None else None
        if op is not None and layer is not None:
            new[node] = dataclasses.replace(layer, op=op, name=layer.name or node.name)
        else:
            new[node] = dataclasses.replace(node, inputs=inputs)
    return dataclasses.replace(network, output=new[network.output], original=None)


def _absorbed(layer: Node, norm: BatchNorm) -> Conv | Linear | None:
    """One operator for a layer and the batch norm of its output; None where that needs more than one."""
    op = layer.op
    if not (isinstance(op, Conv) or (isinstance(op, Linear) and len(layer.shape) == 1)):
        return None
    factor = norm.weight / torch.sqrt(norm.variance + norm.eps)
    bias = norm.bias + factor * ((0 if op.bias is None else op.bias) - norm.mean)
    return dataclasses.replace(op, weight=op.weight * channelwise(factor, op.weight.ndim - 1), bias=bias)


def _is_relu(op: Op) -> bool:
    return isinstance(op, Clamp) and op.is_relu


def _rebuilt(network: Network, op: Callable[[Node], Op]) -> Network:
    """The network with other operators in the same graph."""
    new: dict[Node, Node] = {}
    for node in topological(network.output):
        new[node] = dataclasses.replace(node, op=op(node), inputs=tuple(new[i] for i in node.inputs))
    return dataclasses.replace(network, output=new[network.output], original=None)


def _with_thresholds(op: Op, thresholds: list[Tensor]) -> Op:
    """The activation with these thresholds, or with its own where they bind already; all of them learnable."""
    if isinstance(op, Clamp):
        (high,) = thresholds
        return dataclasses.replace(op, high=_learnable(high if op.high is None else _expanded(op.high, high)))
    assert isinstance(op, MaxMin)
    high, low = thresholds
    high = high if op.high is None else _expanded(op.high, high)
    low = -low if op.low is None else _expanded(op.low, low)
    return dataclasses.replace(op, high=_learnable(high), low=_learnable(low))


def _expanded(own: Tensor, found: Tensor) -> Tensor:
    """An activation's own thresholds, no fewer than were found: they stay as they are, one a neuron too."""
    return own.expand(torch.broadcast_shapes(own.shape, found.shape))


def _learnable(threshold: Tensor) -> Tensor:
    return threshold.detach().clone().requires_grad_()


def _largest_of_channel(threshold: Tensor) -> Tensor:
    """`[channels, 1, ...]` of `[channels, ...]`; dense layers have one neuron a channel."""
    return threshold.flatten(1).amax(1).reshape(-1, *[1] * (threshold.ndim - 1)) if threshold.ndim > 1 else threshold


def _raised(threshold: Tensor) -> Tensor:
    """The thresholds, those of neurons that hardly do anything raised to a share of the others' median."""
    positive = threshold[threshold > 0]
    least = _SMALLEST * positive.median() if len(positive) else threshold.new_ones(())
    return torch.maximum(threshold, least)


@dataclass
class _Top:
    """The largest values of each entry that a stream of batches has shown."""

    count: int
    values: Tensor | None = None

    def add(self, batch: Tensor) -> None:
        every = batch if self.values is None else torch.cat((self.values, batch))
        self.values = every.topk(min(self.count, len(every)), 0).values

    def last(self) -> Tensor:
        """The smallest of those kept: the quantile."""
        assert self.values is not None
        return self.values[-1]


@torch.no_grad()
def _highest(
    network: Network, nodes: list[Node], batches: Iterable[Tensor], quantile: float
) -> Mapping[Node, list[Tensor]]:
    """For each activation, quantiles of what it would put out: of a ReLU's input; of the maxima of a MaxMin and of its
    negated minima."""
    stored = list(batches)
    count = 1 + int((1 - quantile) * sum(map(len, stored)))
    tops = {node: [_Top(count) for _ in range(1 if isinstance(node.op, Clamp) else 2)] for node in nodes}
    for images in stored:
        values: dict[Node, Tensor] = {network.input: images}
        for node in network.operators():
            values[node] = node.op(*(values[i] for i in node.inputs))
            if node in tops:
                for top, seen in zip(tops[node], _seen(node, values[node.inputs[0]]), strict=True):
                    top.add(seen)
    return {node: [top.last() for top in own] for node, own in tops.items()}


def _seen(node: Node, z: Tensor) -> tuple[Tensor, ...]:
    if not isinstance(node.op, MaxMin):
        return (z,)
    a, b = node.op.split(z)
    return torch.maximum(a, b), -torch.minimum(a, b)
