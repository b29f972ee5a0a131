"""Observations against bounds: what the first batch of every run must survive."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import Rows, Trace
from llcert.certify.attack import PGD
from llcert.certify.cascade import BatchResult, Contradiction
from llcert.certify.radii import radii_of
from llcert.certify.stages import Local
from llcert.certify.verdict import Verdict
from llcert.errors import NumericalError
from llcert.ir import Node
from llcert.region import length, spread

_REPORT = "this is a bug in llcert, please report the model"


@dataclass(frozen=True)
class SelfCheck:
    """Tries to contradict the bounds of a few images with random points and attack points of their balls.

    images: how many. points: random points an image. slack: relative rounding allowance of a float32 comparison.
    """

    images: int = 16
    points: int = 8
    slack: float = 1e-3
    pgd: PGD = field(default_factory=lambda: PGD(steps=20))

    def __call__(self, local: Local, images: Tensor, labels: Tensor, indices: Tensor, result: BatchResult) -> None:
        """Raises Contradiction where a certified image is broken, NumericalError where a bound is left."""
        chosen = slice(0, self.images)
        images, labels, indices = images[chosen], labels[chosen], indices[chosen]
        certified = [s.verdict is Verdict.CERTIFIED for s in result.samples[chosen]]
        traces = [local.trace(images, indices, rows, seed=local.seed) for rows in Rows]
        radii = radii_of(local.eps, indices)
        for points in self._points(local, images, labels, radii):
            values = _values(local, points)
            for trace in traces:
                self._inside(local, trace, values)
            self._still(local, traces[0], images, values, radii.to(images.dtype))
            holds = local.claim.holds(values[local.program.output][1], labels, local.program.classes)
            for i in torch.nonzero(~holds)[:, 0].tolist():
                if certified[i]:
                    raise Contradiction(int(indices[i]), int(labels[i]), images[i], points[i])

    def _points(self, local: Local, images: Tensor, labels: Tensor, radii: Tensor) -> list[Tensor]:
        """Random points on the sphere and where an attack ends, each `[images, *shape]`."""
        generator = torch.Generator().manual_seed(local.seed)
        found = []
        for _ in range(self.points):
            noise = torch.randn(images.shape, generator=generator).to(images)
            points = images + noise * spread(radii.to(images.dtype) / length(noise), noise)
            if local.clip_input:  # as `ball` does: an image outside [0, 1] widens the range for itself
                points = torch.minimum(torch.maximum(points, images.clamp(max=0)), images.clamp(min=1))
            found.append(points)
        found.append(self.pgd(local.program, images, labels, radii, local.seed, local.claim)[1])
        return found

    def _inside(self, local: Local, trace: Trace, values: dict[Node, tuple[Tensor, Tensor]]) -> None:
        for block in local.program.blocks:
            regions = trace.before[block.node], trace.hidden[block.node].region
            for region, value in zip(regions, values[block.node], strict=True):
                wider = replace(region, radius=region.radius * (1 + self.slack))
                if not bool(wider.contains(value, slack=self.slack).all()):
                    where = block.node.name or block.label
                    raise NumericalError(f"self-check: a value of {where} leaves its region; {_REPORT}")

    def _still(
        self, local: Local, trace: Trace, images: Tensor, values: dict[Node, tuple[Tensor, Tensor]], radii: Tensor
    ) -> None:
        assert trace.lipschitz is not None
        moved = values[local.program.output][1] - local.program.logits(images)
        allowed = trace.lipschitz * radii * (1 + self.slack) + self.slack
        if bool((length(moved) > allowed).any()):
            raise NumericalError(f"self-check: logits move more than the local Lipschitz bound allows; {_REPORT}")


def _values(local: Local, points: Tensor) -> dict[Node, tuple[Tensor, Tensor]]:
    """The value of every block at some points, before and after its activation."""
    after: dict[Node, Tensor] = {local.program.input: points}
    both: dict[Node, tuple[Tensor, Tensor]] = {}
    for block in local.program.blocks:
        z = block.value(after)
        after[block.node] = z if block.activation is None else block.activation(z)
        both[block.node] = (z, after[block.node])
    return both
