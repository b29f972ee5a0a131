"""Networks of two inputs, whose worst margins over a disc a grid finds: an oracle for stages that certify."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.program import Program


def planar(seed: int, width: int = 8, layers: int = 1) -> Network:
    """Random ReLU layers on `[2]`, three logits, float64; kinks and borders of classes run through the unit square."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    square = torch.rand(200, 2, generator=generator, dtype=torch.float64)
    node, values = apply(Input((2,), torch.float64)), square
    for _ in range(layers):
        weight = normal(width, node.shape[0]) / math.sqrt(node.shape[0])
        inside = values[:width]  # a point on the kink of each neuron
        node = apply(relu(), apply(Linear(weight, -(weight * inside).sum(1)), node))
        values = (values @ weight.T - (weight * inside).sum(1)).clamp(min=0)
    last = normal(3, width)
    return Network(apply(Linear(last, -(values @ last.T).mean(0)), node))


def images_of(program: Program, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and the classes that the network answers."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return images, program.logits(images).argmax(1)


def least_margins(program: Program, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """The least `z_y - z_j` over a fine polar grid of each disc, `[images]`: hardly above the true one."""
    angles = torch.linspace(0, 2 * math.pi, 361, dtype=torch.float64)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    steps = eps * (1 - 1e-12) * torch.linspace(0, 1, 61, dtype=torch.float64)
    moves = (steps[:, None, None] * directions).flatten(0, 1)
    logits = program.logits((images[:, None] + moves).flatten(0, 1)).unflatten(0, (len(images), len(moves)))
    own = logits.gather(2, labels[:, None, None].expand(-1, len(moves), 1))
    rivals = torch.nn.functional.one_hot(labels, logits.shape[2]) == 0
    return (own - logits).masked_fill(~rivals[:, None], torch.inf).amin((1, 2))
