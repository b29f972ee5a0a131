"""Estimates over the balls of a batch: forward and backward passes in the program's own format, norms by iteration.

One `Estimator` serves the stages that certify, the search for radii and the self-check. Its bounds ignore rounding and
its norms approach the true ones from below; what counts as a proof is computed again by
`llcert.certification.proof.prover.Prover`, its counterpart in float64 (docs/method.md, sections 3 to 5, 9 and 10).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from llcert.bounds import EstimatedArithmetic, GlobalBound, LastLayer, RowWeighting, Start, Trace, propagate
from llcert.bounds.backward.crown import Backward, differences
from llcert.bounds.backward.intermediate import Colorings, intermediate_bounds
from llcert.bounds.forward.propagate import Boxes
from llcert.bounds.forward.starts import nudged
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.certification.specification import FIRST, Specification
from llcert.domain.pixel_range import PixelRange
from llcert.domain.region import Region, ball
from llcert.program import Program, Term
from llcert.spectral import Lanczos, Solver


@dataclass(frozen=True)
class Estimator:
    """Estimated bounds of one network for one specification.

    program: the network in the format of the estimates. global_bound: Lipschitz, estimated. solver, start: of local
    norms. within: the pixel range that the specification is restricted to, None for whole balls. exact_colorings: the
    colorings of the same network in float64, which are used here as well; None where nothing is proved.
    """

    program: Program
    global_bound: GlobalBound
    solver: Solver = field(default_factory=Lanczos)
    start: Start = Start.UNMASKED
    within: PixelRange | None = None
    specification: Specification = FIRST
    exact_colorings: Colorings | None = None

    @cached_property
    def last(self) -> LastLayer:
        """The rows of the last linear map."""
        return LastLayer.of(self.program)

    @cached_property
    def backward(self) -> Backward:
        """The backward pass, which uses the image's box only where that was cut to a pixel range."""
        return Backward(self.program, clip=self.within is not None)

    @cached_property
    def colorings(self) -> Colorings:
        """The groups of neurons whose intermediate bounds share a row of a backward pass."""
        return Colorings(self.program, self.exact_colorings)

    def ball(self, batch: Batch) -> Region:
        """The ball of each image, its box cut to the pixel range that the specification is restricted to."""
        return ball(self.program.entering(batch.images), batch.radii, within=self.within)

    def trace(self, batch: Batch, weighting: RowWeighting, *, before: Trace | None = None) -> Trace:
        """The forward pass over the balls; before: an earlier pass, whose singular vectors Start.SAVED begins at."""
        saved = None if before is None else _vectors(before, batch.seeds)
        return self._propagated(batch, self.start, saved, weighting=weighting)

    def masked(self, batch: Batch, so_far: BoundsSoFar) -> tuple[Trace, BoundsSoFar]:
        """The forward pass with slope weights (eq. 6), computed where `so_far` lacks it; and `so_far` with it."""
        trace = so_far.masked or self.trace(batch, RowWeighting.SLOPE)
        return trace, replace(so_far, masked=trace)

    def refined(self, batch: Batch, so_far: BoundsSoFar) -> tuple[Trace, BoundsSoFar]:
        """The same with intermediate bounds, which backward passes find over the regions of `masked`."""
        if so_far.refined is not None:
            return so_far.refined, so_far
        masked, so_far = self.masked(batch, so_far)
        saved = _vectors(masked, batch.seeds)
        found = intermediate_bounds(self.backward, masked, self.colorings.by_block)
        boxes = {n: b.ends for n, b in found.items()}
        # also where no block has boxes: norms from the vectors of the first pass are others in their last digits
        trace = self._propagated(batch, Start.SAVED if saved else self.start, saved, boxes=boxes)
        return trace, replace(so_far, refined=trace)

    def closed(self, trace: Trace, references: Tensor) -> Tensor:
        """Lower bounds of `z_y - z_j` by the backward pass in closed form, `[batch, logits]`; -inf where j is no rival.

        references: y, `[batch]`. The slopes are the tightest ones, and each row stops where its bound is best.
        """
        directions = differences(references, self.program)
        rivals = self.specification.others(directions.shape[1], self.program.classes)
        found = self.backward.closed_form(trace, directions[:, rivals])
        return self.specification.on_all_logits(found, directions.shape[1], self.program.classes)

    def _propagated(
        self,
        batch: Batch,
        start: Start,
        saved: dict[Term, Tensor] | None,
        *,
        weighting: RowWeighting = RowWeighting.SLOPE,
        boxes: Boxes | None = None,
    ) -> Trace:
        arithmetic = EstimatedArithmetic(
            self.global_bound, solver=self.solver, start=start, saved=saved, seed=batch.seeds
        )
        return propagate(self.program, self.ball(batch), arithmetic, weighting=weighting, boxes=boxes)


def _vectors(trace: Trace, seeds: Tensor) -> dict[Term, Tensor]:
    """Starts near the singular vectors of a pass, as far as its solver found them."""
    return {t: nudged(n.vector, seeds) for t, n in trace.norms.items() if n.vector is not None}
