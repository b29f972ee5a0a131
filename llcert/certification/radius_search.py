"""The largest radius at which each image is certified (docs/method.md, section 14)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.bounds import EstimatedArithmetic, LastLayer, propagate
from llcert.bounds.backward.crown import differences
from llcert.certification.batch import Batch
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.specification import positive
from llcert.certification.stages.local import Local
from llcert.domain.region import ball
from llcert.numerics.tensors import length

_GROWTH = 1.5
_DOUBLINGS = 24
_HINTS = (ProofHint(local=True, backward=True), ProofHint(local=False))


@dataclass(frozen=True)
class RadiusSearch:
    """Bisection on the radius of each image, all images of a batch at a time, each probe a bound of its own.

    A probe is the backward pass in closed form, with the best stop, on the regions of that radius; nothing is assumed
    of how the bound depends on the radius. tolerance: relative, of the radius. prover: proves what the search finds, or
    a little less; None leaves it an estimate. fixed: the logits to which no path of nonzero weights leads from the
    image, boolean `[logits]`.
    """

    local: Local
    prover: Prover | None
    fixed: Tensor
    tolerance: float = 0.01

    def __call__(self, batch: Batch) -> Tensor:
        """Radii at which every image is certified, `[batch]`, float64, pixel units; 0 where none was found, infinite
        where the specification holds whatever the image is.

        batch: images at which the specification holds; their own radii do not matter.
        """
        low = self._by_global_norms(batch)
        found = self._searched(batch, low)
        radii = found if self.prover is None else self._proved(batch, low, found)
        return torch.where(self._unbounded(batch), torch.inf, radii)

    def _unbounded(self, batch: Batch) -> Tensor:
        """Whether logits that do not depend on the image suffice for the specification, `[batch]`."""
        program, images, labels = self.local.program, batch.images, batch.references
        pairs = self.fixed[labels][:, None] & self.fixed
        # behind a softmax a logit far below others is lost, and how far they go nobody knows; the first one is not
        softened = self.prover is not None and self.prover.softened and self.local.specification.spare > 0
        if softened or not bool(pairs.any()):
            return torch.zeros_like(labels, dtype=torch.bool)
        if self.prover is None:
            logits = program.logits(images)
            bounds = logits.gather(1, labels[:, None]) - logits
        else:
            nothing = torch.zeros(len(batch), dtype=torch.float64)
            bounds = self.prover(images, labels, ProofHint(local=False), eps=nothing)
        bounds = torch.where(pairs, bounds, -torch.inf)
        return positive(self.local.specification.margin(bounds, labels, program.classes))

    def _by_global_norms(self, batch: Batch) -> Tensor:
        """The radius of the global bound, `margin / (||w_j - w_y|| L)` for the nearest class that is not spared."""
        program, bound, labels = self.local.program, self.local.bound, batch.references
        logits = program.logits(batch.images)
        growth = torch.zeros_like(logits)
        last = LastLayer.of(program)
        for term in last.rows:
            growth = growth + length(last.differences(term, labels), 2) * bound.lipschitz[term.source]
        growth = growth if bound.pairs is None else torch.minimum(growth, bound.pairs[labels])
        radii = (logits.gather(1, labels[:, None]) - logits) / growth
        never = torch.finfo(radii.dtype).max
        nearest = self.local.specification.margin(radii.clamp(max=never), labels, program.classes)
        return torch.where(positive(nearest) & (nearest < never), nearest, 0.0).double()

    def _searched(self, batch: Batch, low: Tensor) -> Tensor:
        """The largest radius that a probe certified, to the tolerance."""
        low = low.clone()
        high = low * _GROWTH
        rising = low > 0
        for _ in range(_DOUBLINGS):
            if not bool(rising.any()):
                break
            rising[rising.clone()] = self._certified(batch.select(rising), high[rising])
            low = torch.where(rising, high, low)
            high = torch.where(rising, high * _GROWTH, high)
        open_ = (low > 0) & ~rising & (high - low > self.tolerance * high)
        while bool(open_.any()):
            middle = (low + high) / 2
            passed = torch.zeros_like(open_)
            passed[open_] = self._certified(batch.select(open_), middle[open_])
            low = torch.where(passed, middle, low)
            high = torch.where(open_ & ~passed, middle, high)
            open_ = open_ & (high - low > self.tolerance * high)
        return low

    def _certified(self, batch: Batch, radii: Tensor) -> Tensor:
        """Whether the images are certified at these radii by the closed form, boolean `[batch]`."""
        local, program = self.local, self.local.program
        region = ball(program.entering(batch.images), radii.to(program.dtype), within=local.within)
        trace = propagate(program, region, EstimatedArithmetic(local.bound, solver=local.solver, seed=batch.seeds))
        directions = differences(batch.references, program)
        others = local.specification.others(directions.shape[1], program.classes)
        bounds = torch.full_like(directions[:, 0], -torch.inf)
        bounds[:, others] = local.backward().closed_form(trace, directions[:, others])
        return positive(local.specification.margin(bounds, batch.references, program.classes))

    def _proved(self, batch: Batch, low: Tensor, found: Tensor) -> Tensor:
        """What a proof leaves of the radii: the searched ones, a tolerance less, or those of the global norms."""
        assert self.prover is not None
        best = torch.zeros_like(found)
        near, far = _HINTS
        far = replace(far, liplt=self.prover.liplt is not None)
        for hint, radii in (
            (near, found),
            (near, found * (1 - self.tolerance)),
            (far, low * (1 - 1e-6)),
            (far, low * (1 - self.tolerance)),
        ):
            left = torch.nonzero((best == 0) & (radii > 0))[:, 0]
            if len(left) == 0:
                break
            some = batch.select(left)
            bounds = self.prover(some.images, some.references, hint, eps=radii[left])
            margin = self.local.specification.margin(bounds, some.references, self.local.program.classes)
            best[left] = torch.where(positive(margin), radii[left], best[left])
        return best
