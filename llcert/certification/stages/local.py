"""The stage `local`: margins over local balls (docs/method.md, sections 4, 5 and 8)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds import (
    EstimatedArithmetic,
    GlobalBound,
    LastLayer,
    RowWeighting,
    Start,
    Trace,
    propagate,
    worst_margins,
)
from llcert.bounds.backward.crown import Backward
from llcert.bounds.backward.intermediate import Colorings, intermediate_bounds
from llcert.bounds.forward.starts import nudged
from llcert.certification.batch import Batch, Known, Traces
from llcert.certification.proof.hint import ProofHint
from llcert.certification.specification import FIRST, Specification, positive
from llcert.certification.verdict import Finding, LayerMeasure, Verdict
from llcert.domain.pixel_range import PixelRange
from llcert.domain.region import Region, ball
from llcert.numerics.tensors import flat
from llcert.program import Program, Term
from llcert.spectral import Lanczos, Solver

_HINTS = (
    ProofHint(local=True),
    ProofHint(local=True, backward=True),
    ProofHint(local=True, weighting=RowWeighting.SECANT),
)


@dataclass(frozen=True)
class Local:
    """Certifies by the local Lipschitz bound: 0/1 masks first (eq. 6), centre secants for what stays open.

    within: the range of pixels that a claim is restricted to. other: the colorings of the same
    network in float64, where there are any.
    """

    program: Program
    bound: GlobalBound
    solver: Solver = field(default_factory=Lanczos)
    start: Start = Start.UNMASKED
    within: PixelRange | None = None
    specification: Specification = FIRST
    other: Colorings | None = None
    name: str = "local"
    verdict: Verdict = Verdict.CERTIFIED

    @cached_property
    def last(self) -> LastLayer:
        return LastLayer.of(self.program)

    def ball(self, batch: Batch) -> Region:
        """The set of each image that the specification is about."""
        return ball(self.program.entering(batch.images), batch.radii, within=self.within)

    def backward(self) -> Backward:
        """The backward pass that knows what the specification is restricted to."""
        return Backward(self.program, clip=self.within is not None)

    def trace(self, batch: Batch, weighting: RowWeighting, *, before: Trace | None = None) -> Trace:
        """The forward pass over the balls of a batch; for Start.SAVED, `before` lends its singular vectors."""
        saved = None if before is None else _vectors(before, batch.seeds)
        arithmetic = EstimatedArithmetic(
            self.bound, solver=self.solver, start=self.start, saved=saved, seed=batch.seeds
        )
        return propagate(self.program, self.ball(batch), arithmetic, weighting=weighting)

    def masked(self, batch: Batch, traces: Traces) -> tuple[Trace, Traces]:
        """The forward pass with 0/1 masks, and all passes with it. traces: those that earlier stages have left."""
        trace = traces.masked or self.trace(batch, RowWeighting.MASK)
        return trace, replace(traces, masked=trace)

    def refined(self, batch: Batch, traces: Traces) -> tuple[Trace, Traces]:
        """The same with intermediate bounds from backward passes, which start from the boxes of the pass with masks."""
        if traces.refined is not None:
            return traces.refined, traces
        masked, traces = self.masked(batch, traces)
        saved = _vectors(masked, batch.seeds)
        start = Start.SAVED if saved else self.start
        arithmetic = EstimatedArithmetic(self.bound, solver=self.solver, start=start, saved=saved, seed=batch.seeds)
        boxes = intermediate_bounds(self.backward(), masked, self.colorings.by_block)
        trace = propagate(self.program, self.ball(batch), arithmetic, boxes={n: b.ends for n, b in boxes.items()})
        return trace, replace(traces, refined=trace)

    @cached_property
    def colorings(self) -> Colorings:
        """The rows of the program's intermediate bounds."""
        return Colorings(self.program, self.other)

    def __call__(self, batch: Batch, known: Known) -> Finding:
        logits = self.program.logits(batch.images)
        masked, traces = self.masked(batch, known.traces)
        bounds = worst_margins(logits, batch.references, self.last, masked.post_activation)
        margin, growth = self._margin(bounds, batch), self._growth(masked, batch)
        still = torch.nonzero(~positive(margin))[:, 0]
        if len(still):
            left = batch.select(still)
            sharper = self.trace(left, RowWeighting.SECANT, before=masked.select(still))
            better = worst_margins(logits[still], left.references, self.last, sharper.post_activation)
            margin[still] = torch.fmax(margin[still], self._margin(better, left))
            bounds[still] = torch.fmax(bounds[still], better)
            growth[still] = torch.fmin(growth[still], self._growth(sharper, left))
        return Finding(
            positive(margin),
            margin,
            masked.logit_lipschitz,
            growth,
            bounds,
            _layers(self.program, masked),
            hints=_HINTS,
            traces=traces,
        )

    def _margin(self, bounds: Tensor, batch: Batch) -> Tensor:
        return self.specification.margin(bounds, batch.references, self.program.classes)

    def _growth(self, trace: Trace, batch: Batch) -> Tensor:
        """Radius of the values the last linear map starts from, over that of the ball, `[images]`; NaN for radius 0."""
        radii = torch.stack([trace.post_activation[t.source].region.radius for t in self.last.rows])
        grown = torch.linalg.vector_norm(radii, dim=0) / batch.radii.to(radii.dtype)
        return torch.where(batch.radii > 0, grown, torch.nan)


def _vectors(trace: Trace, seed: Tensor) -> dict[Term, Tensor]:
    """Starts near the singular vectors of a pass, as far as its solver found them."""
    return {t: nudged(n.vector, seed) for t, n in trace.norms.items() if n.vector is not None}


def _layers(program: Program, trace: Trace) -> tuple[LayerMeasure, ...]:
    measures = []
    for block in program.blocks:
        varying = flat(trace.post_activation[block.node].varying).float().mean(1)
        for term in block.terms:
            norm = trace.norms[term]
            measures.append(LayerMeasure(norm.value, norm.iterations, varying))
    return tuple(measures)
