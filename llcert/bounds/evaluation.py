"""Bounds of the rounding errors of evaluations of a network at single images (docs/method.md, section 12, lemmas 2, 3).

For the comparison of the file's own runtime with the network: what differs by more is no rounding.

These are interval bounds around points, by the interval arithmetic of proofs (`llcert.bounds.forward.outward`), but no
propagation (`llcert.bounds.propagate`): no ball, norm or row weight is wanted, and regions are freed after their last
use, where a `Trace` keeps all of them, so that many more images fit the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.outward import activation_image, affine_image
from llcert.bounds.forward.roundoff import BlockSizes
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.machine.memory import at_once
from llcert.numerics.products import direct_sums
from llcert.program import Program


@dataclass(frozen=True)
class Evaluation:
    """Logits at some images, and bounds of how far any evaluation of the network may be from them.

    values: the logits as float64 computes them, `[images, classes]`. rounding: the bounds, `[images, classes]`;
    infinite or NaN where nothing is known.
    """

    values: Tensor
    rounding: Tensor

    def excess(self, logits: Tensor) -> Tensor:
        """By how much a difference of two logits of another evaluation exceeds what rounding explains, `[images]`.

        At most 0 where no difference does. logits: of that evaluation, `[images, classes]`.
        """
        off = logits.to(self.values) - self.values
        return ((off - self.rounding).amax(1) - (off + self.rounding).amin(1)).nan_to_num(
            nan=torch.inf, posinf=torch.inf
        )


def evaluation(program: Program, images: Tensor) -> Evaluation:
    """Logits with bounds of the rounding of every operation, each value in its own format, sums in any order.

    These are the errors that a proof pays for at these points. program: in float64. images: `[images, *input shape]`.
    """
    return _in_parts(_evaluation, program, images)


def _evaluation(program: Program, images: Tensor) -> Evaluation:
    with torch.no_grad(), direct_sums():
        region = _logits_region(program, images.to(program.device, torch.float64))
        centre, lower, upper = (_of_classes(program, x) for x in (region.centre, region.lower, region.upper))
        return Evaluation(centre, torch.maximum(upper - centre, centre - lower))


def _logits_region(program: Program, points: Tensor) -> Region:
    """Outer bounds of the logits at some points, in real numbers and of deployed evaluations, by boxes alone."""
    unknown = torch.full((len(points),), torch.inf, dtype=torch.float64, device=points.device)
    hidden = {program.input: MaskedRegion(Region.point(points), torch.ones_like(points, dtype=torch.bool))}
    for block, read in program.in_turn():
        z, roundoff = affine_image(block, {s: hidden[s] for s in block.sources}, deployed=True)
        hidden[block.node], _ = activation_image(block, z, unknown, roundoff, deployed=True)
        for node in read:
            del hidden[node]
    return hidden[program.output].region


def least_evaluation(program: Program, images: Tensor) -> Evaluation:
    """Logits with bounds of the rounding of the last block alone: a part of all rounding that costs next to nothing."""
    return _in_parts(_least_evaluation, program, images)


def _least_evaluation(program: Program, images: Tensor) -> Evaluation:
    with torch.no_grad(), direct_sums():
        images = images.to(program.device, torch.float64)
        values: dict[Node, Tensor] = {program.input: images}
        last = program.blocks[-1]
        for block, read in program.in_turn():
            z = block.value(values)
            values[block.node] = z if block.activation is None else block.activation(z)
            for node in read if block is not last else ():
                del values[node]
        logits = values[last.node]
        if last.activation is not None:
            return Evaluation(_of_classes(program, logits), torch.zeros_like(logits))
        sources: Mapping[Node, Region] = {s: Region.point(values[s]) for s in last.sources}
        rounding = BlockSizes.of(last, sources).deployed_error(logits.abs())
        rounding = torch.where(logits < 0, 0.0, rounding) if _is_clipped(program) else rounding
        return Evaluation(_of_classes(program, logits), rounding[:, : program.classes])


def images_at_once(program: Program) -> int:
    """How many images are evaluated at a time: as many as fit the memory, at least one."""
    return at_once(bytes_an_image(program), program.device)


def bytes_an_image(program: Program) -> int:
    """The peak memory of an evaluation with its rounding for one image, about."""
    read, own, windows = program.most
    return _WIDTH * (_KEPT * read + _MADE * own + 2 * windows)


_WIDTH = 8
"""Bytes of a float64."""

_KEPT = 4
"""Tensors of a value that are kept until its last use: a centre, a box, a mask."""

_MADE = 12
"""Tensors of every value of a block that exist while the block is computed."""


def _in_parts(compute: Callable[[Program, Tensor], Evaluation], program: Program, images: Tensor) -> Evaluation:
    found = [compute(program, part) for part in images.split(images_at_once(program))]
    return Evaluation(torch.cat([e.values for e in found]), torch.cat([e.rounding for e in found]))


def _is_clipped(program: Program) -> bool:
    """Whether the network ends in a ReLU: the program has a logit more in its place, which is zero."""
    return program.output.shape[0] > program.classes


def _of_classes(program: Program, logits: Tensor) -> Tensor:
    """The network's own logits, behind a final ReLU where it has one."""
    own = logits[:, : program.classes]
    return own.clamp(min=0) if _is_clipped(program) else own
