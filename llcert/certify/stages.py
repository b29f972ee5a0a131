"""The stages of a certification: clean prediction, global bound, local bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds import GlobalBound, LastLayer, RowWeighting, Start, Trace, propagate, worst_margins
from llcert.bounds.boxes import Asked, backward_boxes
from llcert.bounds.dual import Backward
from llcert.bounds.forward import nudged
from llcert.certify.proof_hint import ProofHint
from llcert.certify.radii import Eps, radii_of
from llcert.certify.specification import FIRST, Specification, positive
from llcert.certify.verdict import Finding, LayerMeasure, Verdict
from llcert.layout import flat
from llcert.program import Program, Term
from llcert.region import PixelRange, Region, ball, length, spread
from llcert.spectral import Lanczos, Solver


@dataclass(frozen=True)
class Clean:
    """Decides the images of which the claim is false without any perturbation: misclassified."""

    program: Program
    specification: Specification = FIRST
    name: str = "clean"
    verdict: Verdict = Verdict.MISCLASSIFIED

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, bounds: Tensor) -> Finding:
        return Finding(~self.specification.holds(self.program.logits(images), labels, self.program.classes))


@dataclass(frozen=True)
class Global:
    """Certifies by the global Lipschitz bound: `z_y - z_j > ||w_j - w_y|| L eps` for every other class (GloRo).

    Or `z_y - z_j > L_yj eps`, the constant of the pair by LipLT.
    """

    program: Program
    eps: Eps
    bound: GlobalBound
    specification: Specification = FIRST
    name: str = "global"
    verdict: Verdict = Verdict.CERTIFIED

    @cached_property
    def distances(self) -> dict[Term, Tensor]:
        """`||w_j - w_y||` in the last layer, `[label, classes]`, for each of its terms."""
        found = {}
        for term, rows in LastLayer.of(self.program).rows.items():
            every = flat(rows)
            found[term] = torch.stack([length(every - row) for row in every])
        return found

    def increases(self, labels: Tensor, radii: Tensor) -> Tensor:
        """Upper bounds on how much `z_j - z_y` can grow, `[batch, classes]`. radii: `[batch]`, pixel units."""
        total = torch.zeros((), dtype=self.program.dtype, device=self.program.device)
        for term, distances in self.distances.items():
            moved = (self.bound.lipschitz[term.source] * radii).to(distances.dtype)
            total = total + distances[labels] * spread(moved, distances)
        if self.bound.pairs is None:
            return total
        return torch.minimum(total, self.bound.pairs[labels] * radii[:, None].to(total.dtype))

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, bounds: Tensor) -> Finding:
        logits = self.program.logits(images)
        margins = logits.gather(1, labels[:, None]) - logits - self.increases(labels, radii_of(self.eps, indices))
        margin = self.specification.margin(margins, labels, self.program.classes)
        liplt = (ProofHint(local=False, liplt=True),) if self.bound.pairs is not None else ()
        hints = ProofHint(local=False), *liplt, ProofHint(local=False, backward=True)
        return Finding(positive(margin), margin, bounds=margins, hints=hints)


class LastTrace:
    """Keeps one forward pass, for as long as only images of it are asked for.

    One stage owns it, with one radius for each image of the data set. An image is found by its index there and compared
    with the one the pass was made of, so that another image under the same index is computed anew.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Keeps nothing, so that its memory is free."""
        self._images, self._places, self._trace = torch.empty(0), dict[int, int](), Trace()

    def __call__(self, images: Tensor, indices: Tensor, compute: Callable[[], Trace]) -> Trace:
        """The pass of these images: the kept one's, or computed and kept. indices: of the images in the data set."""
        places = [self._places.get(i, -1) for i in indices.tolist()]
        where = torch.tensor(places, device=images.device)
        if min(places, default=-1) < 0 or not torch.equal(self._images[where], images):
            self._trace, self._images = compute(), images
            self._places = {i: n for n, i in enumerate(indices.tolist())}
            return self._trace
        return self._trace.select(where)


_HINTS = (
    ProofHint(local=True),
    ProofHint(local=True, backward=True),
    ProofHint(local=True, weighting=RowWeighting.SECANT),
)


@dataclass(frozen=True)
class Local:
    """Certifies by the local Lipschitz bound: 0/1 masks first (eq. 6), centre secants for what stays open.

    within: the range of pixels that a claim is restricted to. other: what asks for boxes of the same network in
    float64, where that has been found anyway.
    """

    program: Program
    eps: Eps
    bound: GlobalBound
    solver: Solver = field(default_factory=Lanczos)
    start: Start = Start.UNMASKED
    within: PixelRange | None = None
    seed: int = 0
    specification: Specification = FIRST
    other: Asked | None = None
    name: str = "local"
    verdict: Verdict = Verdict.CERTIFIED
    _kept: LastTrace = field(default_factory=LastTrace, init=False, repr=False, compare=False)
    _refined: LastTrace = field(default_factory=LastTrace, init=False, repr=False, compare=False)

    @cached_property
    def last(self) -> LastLayer:
        return LastLayer.of(self.program)

    def forget(self) -> None:
        """Drops the forward passes that are kept for later stages."""
        self._kept.forget()
        self._refined.forget()

    def ball(self, images: Tensor, indices: Tensor) -> Region:
        """The ball of each image. indices: in the data set."""
        return ball(self.program.entering(images), radii_of(self.eps, indices), within=self.within)

    def backward(self) -> Backward:
        """The backward pass that knows what the claim is restricted to."""
        return Backward(self.program, clip=self.within is not None)

    def trace(
        self,
        images: Tensor,
        indices: Tensor,
        weighting: RowWeighting,
        *,
        seed: int | Tensor,
        before: Trace | None = None,
    ) -> Trace:
        """The forward pass over the eps-balls of some images; for Start.SAVED, `before` lends its singular vectors.

        seed: of random starts, one or `[images]`.
        """
        saved = _vectors(before, seed) if before else None
        region = self.ball(images, indices)
        return propagate(
            self.program,
            region,
            self.bound,
            weighting=weighting,
            solver=self.solver,
            start=self.start,
            saved=saved,
            seed=seed,
        )

    def masked(self, images: Tensor, indices: Tensor) -> Trace:
        """The forward pass with 0/1 masks; that of the last images is kept, for later stages that see some of them."""
        seeds = self.seed + indices
        return self._kept(images, indices, lambda: self.trace(images, indices, RowWeighting.MASK, seed=seeds))

    def refined(self, images: Tensor, indices: Tensor) -> Trace:
        """The same with boxes from the backward pass; kept likewise."""
        return self._refined(images, indices, lambda: self._with_boxes(images, indices))

    def _with_boxes(self, images: Tensor, indices: Tensor) -> Trace:
        first = self.masked(images, indices)
        seeds = self.seed + indices
        saved = _vectors(first, seeds)
        boxes = backward_boxes(self.backward(), first, self.asked.probes)
        return propagate(
            self.program,
            self.ball(images, indices),
            self.bound,
            solver=self.solver,
            start=Start.SAVED if saved else self.start,
            saved=saved,
            seed=seeds,
            boxes=boxes,
        )

    @cached_property
    def asked(self) -> Asked:
        """What asks for the boxes of the program's blocks."""
        return Asked(self.program, self.other)

    def __call__(self, images: Tensor, labels: Tensor, indices: Tensor, bounds: Tensor) -> Finding:
        logits = self.program.logits(images)
        masked = self.masked(images, indices)
        bounds = worst_margins(logits, labels, self.last, masked.post_activation)
        margin, growth = self._margin(bounds, labels), self._growth(masked, indices)
        still = torch.nonzero(~positive(margin))[:, 0]
        if len(still):
            seeds, before = self.seed + indices[still], masked.select(still)
            sharper = self.trace(images[still], indices[still], RowWeighting.SECANT, seed=seeds, before=before)
            better = worst_margins(logits[still], labels[still], self.last, sharper.post_activation)
            margin[still] = torch.fmax(margin[still], self._margin(better, labels[still]))
            bounds[still] = torch.fmax(bounds[still], better)
            growth[still] = torch.fmin(growth[still], self._growth(sharper, indices[still]))
        layers = _layers(self.program, masked)
        return Finding(positive(margin), margin, masked.logit_lipschitz, growth, bounds, layers, hints=_HINTS)

    def _margin(self, bounds: Tensor, labels: Tensor) -> Tensor:
        return self.specification.margin(bounds, labels, self.program.classes)

    def _growth(self, trace: Trace, indices: Tensor) -> Tensor:
        """Radius of the values the last linear map starts from, over eps, `[images]`; NaN for eps = 0."""
        radii = torch.stack([trace.post_activation[t.source].region.radius for t in self.last.rows])
        asked = radii_of(self.eps, indices)
        return torch.where(asked > 0, torch.linalg.vector_norm(radii, dim=0) / asked.to(radii.dtype), torch.nan)


def _vectors(trace: Trace, seed: int | Tensor) -> dict[Term, Tensor]:
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
