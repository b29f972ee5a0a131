"""A network's trainable tensors: leaves in its nodes, by name, shared by everything that reads the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llcert.ir import Input, LinearOp, Network, Node, Op, place, topological
from llcert.ops import Clamp, Conv, Linear
from llcert_train.orthogonal import Orthogonal, orthogonal


@dataclass(frozen=True)
class Computed:
    """A leaf that is not moved itself but computed from raw parameters."""

    leaf: nn.Parameter
    formula: Orthogonal
    raw: Mapping[str, nn.Parameter]

    def value(self) -> Tensor:
        """What the leaf must hold, with a gradient to the raw parameters."""
        return self.formula(self.raw)


@dataclass(frozen=True)
class Weights:
    """A network whose parameters can be trained in place.

    network: its nodes hold the leaves. leaves: by name, in order of execution. computed: those that follow from raw
    parameters. floors: for each threshold of a clamp, what it must not fall below.
    """

    network: Network
    leaves: Mapping[str, nn.Parameter]
    computed: Mapping[str, Computed]
    floors: Mapping[str, Tensor]

    @staticmethod
    def of(network: Network, device: torch.device | str) -> Weights:
        """Copies of a network's trainable tensors on a device, as leaves; normalisation of the image stays fixed.

        Tensors that several nodes share stay shared.
        """
        collector = _Collector(torch.device(device), network.dtype)
        output = place(collector.rebuilt(network.output), device, network.dtype)
        floors = {name: floor.to(device, network.dtype) for name, floor in collector.floors.items()}
        return Weights(dataclasses.replace(network, output=output, original=None), collector.leaves, {}, floors)

    def orthogonal(self, seed: int) -> Weights:
        """The same with the weights of all layers but the last computed from raw parameters, orthogonal throughout."""
        generator = torch.Generator().manual_seed(seed)
        nodes = [n for n in self.network.operators() if isinstance(n.op, Conv | Linear)]
        names = {id(leaf): name for name, leaf in self.leaves.items()}
        computed: dict[str, Computed] = {}
        for node in nodes[:-1]:
            leaf = node.op.weight  # type: ignore[attr-defined]
            formula = orthogonal(tuple(leaf.shape), node.op.stride if isinstance(node.op, Conv) else ())
            raw = {k: nn.Parameter(v.to(leaf)) for k, v in formula.initial(generator).items()}
            computed[names[id(leaf)]] = Computed(leaf, formula, raw)
        weights = dataclasses.replace(self, computed=computed)
        weights.refresh()
        return weights

    @property
    def moved(self) -> dict[str, nn.Parameter]:
        """What an optimiser moves, by name: free leaves, and the raw parameters of the others."""
        free = {name: leaf for name, leaf in self.leaves.items() if name not in self.computed}
        raw = {f"{name}.{part}": p for name, c in self.computed.items() for part, p in c.raw.items()}
        return free | raw

    @torch.no_grad()
    def refresh(self) -> None:
        """Computes the computed leaves anew, in place."""
        for computed in self.computed.values():
            computed.leaf.copy_(computed.value())

    def pull_back(self) -> None:
        """Hands the gradients of computed leaves on to their raw parameters."""
        for computed in self.computed.values():
            if computed.leaf.grad is not None:
                with torch.enable_grad():
                    torch.autograd.backward(computed.value(), computed.leaf.grad)

    @torch.no_grad()
    def project(self) -> None:
        """Moves thresholds that fell below their floor back to it, in place."""
        for name, floor in self.floors.items():
            leaf = self.leaves[name]
            leaf.copy_(torch.maximum(leaf, floor))


class _Collector:
    """Rebuilds a graph with leaves in place of its trainable tensors."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.leaves: dict[str, nn.Parameter] = {}
        self.floors: dict[str, Tensor] = {}
        self._device, self._dtype = device, dtype
        self._known: dict[int, str] = {}

    def rebuilt(self, output: Node) -> Node:
        new: dict[Node, Node] = {}
        front: set[Node] = set()
        for position, node in enumerate(topological(output)):
            inputs = tuple(new[i] for i in node.inputs)
            if _in_front(node, front):
                front.add(node)
                new[node] = dataclasses.replace(node, inputs=inputs)
            else:
                new[node] = dataclasses.replace(node, inputs=inputs, op=self._trained(node, position))
        return new[output]

    def _trained(self, node: Node, position: int) -> Op:
        fields: dict[str, nn.Parameter] = {}
        for field, tensor in node.op.tensors().items():
            # a lone number is part of what an operator is: a negation, a hard sigmoid's slope
            learns = field in node.op.trainable and tensor.ndim > 0
            if tensor.is_floating_point() and (learns or tensor.requires_grad):
                name = self._leaf(f"{position}.{node.op.label}.{field}", tensor)
                fields[field] = self.leaves[name]
                if isinstance(node.op, Clamp) and field == "high" and node.op.low is not None:
                    floor = _largest(node.op.low.detach(), tensor)
                    self.floors[name] = torch.maximum(floor, self.floors.get(name, floor))
        return dataclasses.replace(node.op, **fields) if fields else node.op  # type: ignore[type-var]

    def _leaf(self, name: str, tensor: Tensor) -> str:
        """The name of the leaf in place of a tensor: the one given, where the tensor is met for the first time."""
        known = self._known.setdefault(id(tensor), name)
        if known == name:
            # contiguous: rounding depends on how a matrix lies in memory
            copy = tensor.detach().to(self._device, self._dtype, copy=True).contiguous()
            self.leaves[name] = nn.Parameter(copy)
        return known


def _largest(low: Tensor, high: Tensor) -> Tensor:
    """The largest of the lower bounds that meet each upper one, in their shape."""
    low = low.expand(torch.broadcast_shapes(low.shape, high.shape))
    met = [i for i in range(-low.ndim, 0) if i < -high.ndim or (high.shape[i] == 1 and low.shape[i] > 1)]
    return (low.amax(met, keepdim=True) if met else low).reshape(high.shape)


def _in_front(node: Node, front: set[Node]) -> bool:
    """Whether a node only moves or scales the entries of the image: its layout and normalisation, which are given."""
    if isinstance(node.op, Input):
        return True
    return isinstance(node.op, LinearOp) and node.op.is_scaled_permutation and all(i in front for i in node.inputs)
