"""Inputs at which two implementations of a network are compared: of several kinds and scales, and such that switch on
what others leave off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llcert.machine.memory import at_once
from llcert.numerics.tensors import flat
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

_WIDTH, _KEPT = 4, 3
"""Bytes of a number, and tensors of every value, that a pass keeps."""

Unit = tuple[Block, int]
"""An entry of a block's value before its activation."""


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
    chosen = _units(program, seen, generator)
    if not chosen:
        return seen[:0]
    each = sum(b.roundings * math.prod(b.pre.shape) for b in program.blocks)
    count = min(max(int(_WORK / (6 * _STEPS * max(each, 1))), _LEAST), _MOST, len(chosen))
    chosen = [chosen[i * len(chosen) // count] for i in range(count)]
    signs = torch.tensor([1.0, -1.0]).repeat(len(chosen))
    points = torch.full((2 * len(chosen), *seen.shape[1:]), 0.5)
    places = torch.arange(len(points)).split(at_once(_WIDTH * _KEPT * program.entries, program.device))
    units = [unit for unit in chosen for _ in range(2)]
    for _ in range(_STEPS):
        gradient = torch.cat([_gradient(program, points[p], [units[k] for k in p.tolist()], signs[p]) for p in places])
        points = (points + gradient.sign() / 2).clamp(0, 1)
    return points


def _gradient(program: Program, points: Tensor, units: Sequence[Unit], signs: Tensor) -> Tensor:
    """Of the unit of each point, with its sign."""
    points = points.detach().requires_grad_()
    wanted: dict[Block, list[int]] = {}
    for k, (block, _) in enumerate(units):
        wanted.setdefault(block, []).append(k)
    with torch.enable_grad():
        total = torch.zeros(())
        for block, value, _ in _passing(program, points):
            for k in wanted.get(block, ()):
                total = total + signs[k] * value[k].flatten()[units[k][1]]
        (gradient,) = torch.autograd.grad(total, points)
    return gradient


@torch.no_grad()
def _units(program: Program, seen: Tensor, generator: torch.Generator) -> list[Unit]:
    """Some of every block, those first whose output never changes on the inputs seen, or on as many as fit."""
    seen = seen[: at_once(_WIDTH * _KEPT * sum(program.most), program.device)]
    found: list[Unit] = []
    for block, value, output in _passing(program, seen):
        if block.activation is None:
            continue
        order, output = torch.randperm(value[0].numel(), generator=generator), flat(output)
        if output.shape[1] == len(order):
            still = (output == output[:1]).all(0)
            order = torch.cat((order[still[order]], order[~still[order]]))
        found += [(block, i) for i in order[:_UNITS].tolist()]
    return found


def _passing(program: Program, images: Tensor) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """Every block with its value before the activation and behind it."""
    values = {program.input: images}
    for block, read in program.in_turn():
        value = block.value(values)
        values[block.node] = output = value if block.activation is None else block.activation(value)
        yield block, value, output
        for node in read:
            del values[node]
