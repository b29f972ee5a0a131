"""Observations against bounds: what the first batch of every run must survive."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import Rows
from llcert.certify.attack import PGD
from llcert.certify.cascade import BatchResult, Contradiction
from llcert.certify.stages import Local
from llcert.certify.verdict import Verdict, leads
from llcert.errors import NumericalError
from llcert.ir import Node
from llcert.region import spread


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
        for points in self._points(local, images, labels):
            self._inside(local, images, points)
            for i in torch.nonzero(~leads(local.program.logits(points), labels))[:, 0].tolist():
                if certified[i]:
                    raise Contradiction(int(indices[i]), int(labels[i]), images[i], points[i])

    def _points(self, local: Local, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Random points on the sphere and where an attack ends, each `[images, *shape]`."""
        generator = torch.Generator().manual_seed(local.seed)
        found = []
        for _ in range(self.points):
            noise = torch.randn(images.shape, generator=generator).to(images)
            length = torch.linalg.vector_norm(noise.flatten(1), dim=1)
            points = images + noise * spread(local.eps / length, noise)
            found.append(points.clamp(0, 1) if local.clip_input else points)
        found.append(self.pgd(local.program, images, labels, local.eps, local.seed)[1])
        return found

    def _inside(self, local: Local, images: Tensor, points: Tensor) -> None:
        for rows in Rows:
            trace = local.trace(images, rows, seed=local.seed)
            values: dict[Node, Tensor] = {local.program.input: points}
            for block in local.program.blocks:
                z = block.value(values)
                values[block.node] = z if block.activation is None else block.activation(z)
                for region, value in (
                    (trace.before[block.node], z),
                    (trace.hidden[block.node].region, values[block.node]),
                ):
                    region = replace(region, radius=region.radius * (1 + self.slack))
                    if not bool(region.contains(value, slack=self.slack).all()):
                        raise NumericalError(
                            f"self-check: a value of {block.node.name or block.label} leaves its {rows.value} region; "
                            "this is a bug in llcert, please report the model"
                        )
            if trace.lipschitz is not None:
                moved = torch.linalg.vector_norm(values[local.program.output] - local.program.logits(images), dim=1)
                allowed = trace.lipschitz * local.eps * (1 + self.slack) + self.slack
                if not bool((moved <= allowed).all()):
                    raise NumericalError(
                        "self-check: logits move more than the local Lipschitz bound allows; "
                        "this is a bug in llcert, please report the model"
                    )
