"""Inputs at which two implementations of a network are compared: of several kinds and scales, and such that switch on
what others leave off."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from llcert.layout import flat
from llcert.program import Block, Program

_EACH = 4
"""Random inputs of a kind."""

_UNITS = 8
"""Units of a block that are driven, at most."""

_LEAST, _MOST = 4, 64
"""Units of all blocks together."""

_WORK = 1e9
"""Products that driving may take, as far as `_LEAST` allows."""

_STEPS = 3


def inputs_of(program: Program) -> Iterator[Tensor]:
    """Batches of inputs `[inputs, *shape]` of one scale each, seeded. program: in float32."""
    generator = torch.Generator().manual_seed(0)
    shape = (_EACH, *program.input.shape)
    pixels = torch.rand(shape, generator=generator)
    bits = (torch.rand(shape, generator=generator) < 0.5).float()
    sparse = pixels * (torch.rand(shape, generator=generator) < 0.05)
    constant = torch.stack([torch.full(shape[1:], level) for level in (0.0, 0.5, 1.0)])
    within = torch.cat((pixels, bits, sparse, constant))
    yield within
    yield 3 * torch.randn(shape, generator=generator)
    yield 100 * torch.randn(shape, generator=generator)
    driven = _driven(program, within, generator)
    if len(driven):
        yield driven


def _driven(program: Program, seen: Tensor, generator: torch.Generator) -> Tensor:
    """Images in [0, 1] that drive units up and down, those first whose output never changes on the inputs seen."""
    chosen = [(b, i) for b in program.blocks if b.activation is not None for i in _units(program, b, seen, generator)]
    if not chosen:
        return seen[:0]
    each = sum(b.roundings * math.prod(b.pre.shape) for b in program.blocks)
    count = min(max(int(_WORK / (6 * _STEPS * max(each, 1))), _LEAST), _MOST, len(chosen))
    chosen = [chosen[i * len(chosen) // count] for i in range(count)]
    signs = torch.tensor([1.0, -1.0]).repeat(len(chosen))
    points = torch.full((2 * len(chosen), *seen.shape[1:]), 0.5)
    units = [unit for unit in chosen for _ in range(2)]
    for _ in range(_STEPS):
        points.requires_grad_()
        with torch.enable_grad():
            values = _before_activations(program, points)
            driven = [values[block][k].flatten()[i] for k, (block, i) in enumerate(units)]
            (gradient,) = torch.autograd.grad((torch.stack(driven) * signs).sum(), points)
        points = (points.detach() + gradient.sign() / 2).clamp(0, 1)
    return points


def _units(program: Program, block: Block, seen: Tensor, generator: torch.Generator) -> list[int]:
    """Entries of a block's value before its activation."""
    assert block.activation is not None
    with torch.no_grad():
        value = _before_activations(program, seen)[block]
        output = flat(block.activation(value))
        order = torch.randperm(value[0].numel(), generator=generator)
        if output.shape[1] == len(order):
            still = (output == output[:1]).all(0)
            order = torch.cat((order[still[order]], order[~still[order]]))
    return order[:_UNITS].tolist()


def _before_activations(program: Program, images: Tensor) -> dict[Block, Tensor]:
    values = {program.input: images}
    before = {}
    for block in program.blocks:
        before[block] = z = block.value(values)
        values[block.node] = z if block.activation is None else block.activation(z)
    return before
