"""What an evaluation of a network at some images may differ by from its real value there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.enclose import at_points
from llcert.bounds.roundoff import Passage
from llcert.ir import Node
from llcert.program import Program
from llcert.region import Region
from llcert.rounding import direct_sums


@dataclass(frozen=True)
class Evaluation:
    """Logits at some images, and how far an evaluation of the network may be from them.

    values: `[images, classes]`, as float64 computes them. rounding: of each logit, `[images, classes]`; infinite or NaN
    where nothing is known.
    """

    values: Tensor
    rounding: Tensor

    def excess(self, logits: Tensor) -> Tensor:
        """By how much differences of other logits leave what rounding allows, `[images]`; <= 0 where none does."""
        off = logits.to(self.values) - self.values
        return ((off - self.rounding).amax(1) - (off + self.rounding).amin(1)).nan_to_num(
            nan=torch.inf, posinf=torch.inf
        )


def evaluation(program: Program, images: Tensor) -> Evaluation:
    """Bounds of the rounding of every operation on the way, each value in its own format, sums in any order.

    It is what a proof pays for at these points. program: in float64. images: `[images, *input shape]`.
    """
    with torch.no_grad(), direct_sums():
        region = at_points(program, images.to(program.device, torch.float64))
        centre, lower, upper = (_of_classes(program, x) for x in (region.centre, region.lower, region.upper))
        return Evaluation(centre, torch.maximum(upper - centre, centre - lower))


def least_evaluation(program: Program, images: Tensor) -> Evaluation:
    """The same with the rounding of the last block alone, which is a part of the whole and costs next to nothing."""
    with torch.no_grad(), direct_sums():
        images = images.to(program.device, torch.float64)
        values: dict[Node, Tensor] = {program.input: images}
        for block in program.blocks:
            z = block.value(values)
            values[block.node] = z if block.activation is None else block.activation(z)
        last = program.blocks[-1]
        logits = values[last.node]
        if last.activation is not None:
            return Evaluation(_of_classes(program, logits), torch.zeros_like(logits))
        sources: Mapping[Node, Region] = {s: _point(values[s]) for s in last.sources}
        rounding = Passage.of(last, sources).deployed(logits.abs())
        rounding = torch.where(logits < 0, 0.0, rounding) if _is_clipped(program) else rounding
        return Evaluation(_of_classes(program, logits), rounding[:, : program.classes])


def _point(value: Tensor) -> Region:
    return Region(value, value, value, value.new_zeros(len(value)))


def _is_clipped(program: Program) -> bool:
    """Whether the network ends in a ReLU, which the program leaves out: it has one logit more, a zero."""
    return program.output.shape[0] > program.classes


def _of_classes(program: Program, logits: Tensor) -> Tensor:
    """The network's own logits, behind a final ReLU where it has one."""
    own = logits[:, : program.classes]
    return own.clamp(min=0) if _is_clipped(program) else own
