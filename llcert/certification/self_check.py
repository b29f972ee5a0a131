"""The self-check: the bounds of a run's first batch against what the network computes at points of the balls
(docs/soundness.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import RowWeighting, Trace
from llcert.bounds.forward.roundoff import BlockSizes
from llcert.certification.attack import Adversary
from llcert.certification.batch import Batch
from llcert.certification.estimator import Estimator
from llcert.certification.pgd import PGD, AttackLoss
from llcert.certification.result import BatchResult, Contradiction
from llcert.certification.verdict import Verdict
from llcert.domain.pixel_range import UNIT
from llcert.domain.region import Region
from llcert.errors import NumericalError
from llcert.ir import Network, Node, evaluate_as_run
from llcert.numerics.tensors import flat, length, spread
from llcert.program import Program, lower

_REPORT = "this is a bug in llcert, please report the model"

Values = Mapping[Node, tuple[Tensor, Tensor]]
"""The value of every block at a point of each image, before and after its activation."""


@dataclass(frozen=True)
class SelfCheck:
    """Tries to contradict the bounds of a few images with random points and attack points of their balls.

    The points are evaluated in float64, whose own rounding is neglected. The rounding of the estimates' format is
    measured at the same points, and values may leave the estimated regions by `noise` times as much.

    images: how many are checked. points: random points for each. slack: relative allowance for norms that are
    estimates. seed: of the random points.
    """

    images: int = 16
    points: int = 8
    slack: float = 1e-3
    noise: float = 16.0
    seed: int = 0
    pgd: PGD = field(default_factory=lambda: PGD(steps=20, loss=AttackLoss.MARGIN))

    def __call__(
        self, estimator: Estimator, network: Network, batch: Batch, result: BatchResult, *, deployed: bool
    ) -> None:
        """Raises Contradiction where a certified image is broken, NumericalError where a bound is left.

        estimator: its regions and Lipschitz constants are checked. network: which its program was lowered from. batch,
        result: the images, and what was certified of them. deployed: whether that is about the network as it is run.
        """
        exact = lower(network, estimator.program.device, torch.float64)
        batch = batch.select(torch.arange(min(self.images, len(batch)), device=batch.images.device))
        certified = [s.verdict is Verdict.CERTIFIED for s in result.samples[: len(batch)]]
        traces = [estimator.trace(batch, weighting) for weighting in RowWeighting]
        before = _values(exact, batch.images)[exact.output][1]
        points = self._points(estimator, batch)
        noise = [*torch.stack([_rounding(exact, estimator.program, p) for p in points]).amax(0)]
        for at in points:
            there = _values(exact, at)  # again: of all points at once they take more than all that bounds take
            for trace in traces:
                self._inside(exact, estimator.program, trace, there, noise)
            self._still(exact, traces[0], before, there, batch.radii)
            speaking = [there[exact.output][1], *([evaluate_as_run(network.output, at)] if deployed else [])]
            for logits in speaking:
                holds = estimator.specification.holds(logits, batch.labels, exact.classes)
                for i in torch.nonzero(~holds)[:, 0].tolist():
                    if certified[i]:
                        raise Contradiction(int(batch.indices[i]), int(batch.labels[i]), batch.images[i], at[i])

    def _points(self, estimator: Estimator, batch: Batch) -> list[Tensor]:
        """Random points on the sphere and the worst that an attack meets, float64 `[images, *shape]` each."""
        generator = torch.Generator().manual_seed(self.seed)
        found, anchors = [], batch.images.double()
        for _ in range(self.points):
            noise = torch.randn(anchors.shape, generator=generator).to(anchors)
            points = anchors + noise * spread(batch.radii / length(noise), noise)
            found.append(points if estimator.within is None else estimator.within.clip(points))
        within = estimator.within
        adversary = Adversary(
            estimator.program,
            specification=estimator.specification,
            pixels=within or UNIT,
            restricted=within is not None,
        )
        reached = self.pgd(adversary, adversary.allowed(batch), batch.labels, batch.seeds)
        return [*found, reached.points.double()]

    def _inside(self, exact: Program, program: Program, trace: Trace, values: Values, noise: list[Tensor]) -> None:
        """Raises NumericalError where a value leaves its region. noise: rounding of the estimate, of each block."""
        for own, block, moved in zip(exact.blocks, program.blocks, noise, strict=True):
            regions = trace.pre_activation[block.node], trace.post_activation[block.node].region
            for region, value, rounding in zip(regions, values[own.node], moved, strict=True):
                wider = _wider(region, self.noise * rounding, self.slack)
                if not bool(wider.contains(value, tolerance=self.slack).all()):
                    where = block.node.name or block.label
                    raise NumericalError(f"self-check: a value of {where} leaves its region; {_REPORT}")

    def _still(self, exact: Program, trace: Trace, before: Tensor, values: Values, radii: Tensor) -> None:
        """Raises NumericalError where logits move farther than the local Lipschitz constant and rounding allow."""
        assert trace.logit_lipschitz is not None
        after = values[exact.output][1]
        least = self.slack * flat(before.abs()).amax(1).clamp(max=1)
        allowed = trace.logit_lipschitz.double() * radii * (1 + self.slack) + least + 1e-9 * _size(exact, values)
        if bool((length(after - before) > allowed).any()):
            raise NumericalError(f"self-check: logits move more than the local Lipschitz bound allows; {_REPORT}")


def _values(program: Program, points: Tensor) -> dict[Node, tuple[Tensor, Tensor]]:
    """The value of every block at some points."""
    after: dict[Node, Tensor] = {program.input: program.entering(points)}
    both: dict[Node, tuple[Tensor, Tensor]] = {program.input: (after[program.input],) * 2}
    for block in program.blocks:
        z = block.value(after)
        after[block.node] = z if block.activation is None else block.activation(z)
        both[block.node] = (z, after[block.node])
    return both


def _rounding(exact: Program, rounded: Program, points: Tensor) -> Tensor:
    """The largest rounding of any entry at a point of each image, before and after the activation of each block,
    `[blocks, 2, images]`."""
    pairs = zip(_values(exact, points).values(), _values(rounded, points).values(), strict=True)
    return torch.stack([_apart(a, b) for a, b in pairs][1:])


def _apart(exact: tuple[Tensor, Tensor], rounded: tuple[Tensor, Tensor]) -> Tensor:
    apart = [(a - b.double()).abs().nan_to_num(nan=torch.inf) for a, b in zip(exact, rounded, strict=True)]
    return torch.stack([flat(a).amax(1) for a in apart])


def _wider(region: Region, noise: Tensor, slack: float) -> Region:
    """The region with room for noise of every entry, `[images]`, and a relative slack of the radius."""
    radius = region.radius * (1 + slack) + noise * region.centre.shape[1:].numel() ** 0.5
    noise = spread(noise, region.centre)
    return replace(region, lower=region.lower - noise, upper=region.upper + noise, radius=radius)


def _size(program: Program, values: Values) -> Tensor:
    """The largest sum of absolute values that is added up anywhere, `[images]`."""
    sizes = []
    for block in program.blocks:
        sources = {s: Region.point(values[s][1]) for s in block.sources}
        sizes.append(flat(BlockSizes.of(block, sources).size).amax(1))
    return torch.stack(sizes).amax(0)
