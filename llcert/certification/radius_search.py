"""The largest radius at which each image is certified (docs/method.md, section 14)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llcert.bounds import RowWeighting
from llcert.certification.batch import Batch
from llcert.certification.estimator import Estimator
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.specification import positive
from llcert.numerics.tensors import length

_FACTOR = 1.5
_GROWINGS = 24
"""The search tries radii that grow by this factor, so many times at most."""

_LOCAL, _GLOBAL = ProofHint(local=True, backward=True), ProofHint(local=False, liplt=True)

HINTS = (_LOCAL, _LOCAL, _GLOBAL, _GLOBAL)
"""The hints that may be followed for one image, in turn."""


@dataclass(frozen=True)
class RadiusSearch:
    """Bisection on the radius of each image, all images of a batch at a time, each probe a bound of its own.

    A probe is the backward pass in closed form, with the best stop, on the regions of that radius; nothing is assumed
    of how the bound depends on the radius. tolerance: relative, of the radius. prover: proves what the search finds, or
    a little less; None leaves it an estimate. fixed: the logits to which no path of nonzero weights leads from the
    image, boolean `[logits]`.
    """

    estimator: Estimator
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
        program, images, references = self.estimator.program, batch.images, batch.references
        pairs = self.fixed[references][:, None] & self.fixed
        # behind a softmax a logit far below others is lost, and how far they go nobody knows; the first one is not
        softened = self.prover is not None and self.prover.softened and self.estimator.specification.spare > 0
        if softened or not bool(pairs.any()):
            return torch.zeros_like(references, dtype=torch.bool)
        if self.prover is None:
            logits = program.logits(images)
            bounds = logits.gather(1, references[:, None]) - logits
        else:
            bounds = self.prover(images, references, ProofHint(local=False), 0.0)
        bounds = torch.where(pairs, bounds, -torch.inf)
        return positive(self.estimator.specification.margin(bounds, references, program.classes))

    def _by_global_norms(self, batch: Batch) -> Tensor:
        """The radius of the global bound, `margin / (||w_j - w_y|| L)` for the nearest class that is not spared."""
        program, bound, references = self.estimator.program, self.estimator.global_bound, batch.references
        logits = program.logits(batch.images)
        constants = torch.zeros_like(logits)
        last = self.estimator.last
        for term in last.rows:
            constants = constants + length(last.differences(term, references), 2) * bound.lipschitz[term.source]
        constants = constants if bound.pairs is None else torch.minimum(constants, bound.pairs[references])
        radii = (logits.gather(1, references[:, None]) - logits) / constants
        never = torch.finfo(radii.dtype).max
        nearest = self.estimator.specification.margin(radii.clamp(max=never), references, program.classes)
        return torch.where(positive(nearest) & (nearest < never), nearest, 0.0).double()

    def _searched(self, batch: Batch, low: Tensor) -> Tensor:
        """The largest radius that a probe certified, to the tolerance."""
        low = low.clone()
        high = low * _FACTOR
        rising = low > 0
        for _ in range(_GROWINGS):
            if not bool(rising.any()):
                break
            rising[rising.clone()] = self._certified(batch.select(rising), high[rising])
            low = torch.where(rising, high, low)
            high = torch.where(rising, high * _FACTOR, high)
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
        trace = self.estimator.trace(replace(batch, radii=radii), RowWeighting.SLOPE)
        bounds = self.estimator.closed(trace, batch.references)
        specification, classes = self.estimator.specification, self.estimator.program.classes
        return positive(specification.margin(bounds, batch.references, classes))

    def _proved(self, batch: Batch, low: Tensor, found: Tensor) -> Tensor:
        """The first radius that is proved: the searched one, a tolerance less, the global bound's, a tolerance less.

        low: by the global bound. found: by the search.
        """
        assert self.prover is not None
        best = torch.zeros_like(found)
        less = 1 - self.tolerance
        for hint, radii in zip(HINTS, (found, found * less, low * (1 - 1e-6), low * less), strict=True):
            left = torch.nonzero((best == 0) & (radii > 0))[:, 0]
            if len(left) == 0:
                break
            some = batch.select(left)
            bounds = self.prover(some.images, some.references, hint, radii[left])
            margin = self.estimator.specification.margin(bounds, some.references, self.estimator.program.classes)
            best[left] = torch.where(positive(margin), radii[left], best[left])
        return best
