"""How a network in training does on images kept aside: accuracies, losses, bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.bounds import (
    Balls,
    EstimatedArithmetic,
    GlobalBound,
    LastLayer,
    Trace,
    global_bound,
    propagate,
    worst_margins,
)
from llcert.bounds.forward.starts import nudged
from llcert.bounds.liplt import Composed
from llcert.certification import FIRST, PGD, Adversary, Estimator, Global, Perturbations, batch_size_for, positive
from llcert.domain.region import ball
from llcert.numerics.products import full_precision
from llcert.numerics.tensors import flat
from llcert.program import Program, Term
from llcert.reporting.layers import layers
from llcert.reporting.numbers import finite, histogram, mean
from llcert.reporting.subject import Layer as Named
from llcert.spectral import PowerIteration
from llcert_train.losses import worst_logits
from llcert_train.metrics import HeldOut, Layer

_SOLVER = PowerIteration(tolerance=1e-3, cap=2000)
_UNMASKED = PowerIteration(tolerance=1e-3, cap=3000)


@dataclass(frozen=True)
class Watch:
    """Looks at a program through held-out images, as often as asked while its weights change in place.

    images: `[images, *input shape]`, pixel units; labels: `[images]`. eps: radius in pixel units. Certified means by
    the local bound (eq. 6), which is never above the product of norms, or by the constant of a pair of classes (LipLT)
    where the network is trained on it: composed are its maps. local: whether norms of single images are found; without
    them global balls and the boxes in them are what is known. Every bound is an estimate.
    """

    program: Program
    images: Tensor
    labels: Tensor
    eps: float
    attack_steps: int
    seed: int
    composed: Composed | None = None
    local: bool = True

    def __call__(self, starts: Mapping[Term, Tensor]) -> HeldOut:
        """What the images show now. starts: vectors near the singular ones of the whole maps, if there are any."""
        with torch.no_grad(), full_precision():
            near = {term: nudged(vector, self.seed) for term, vector in starts.items()}
            bound = global_bound(self.program, _UNMASKED, seed=self.seed, starts=near, composed=self.composed)
            return _combined([*self._looks(bound)], layers(self.program, bound), bound)

    def _looks(self, bound: GlobalBound) -> Iterator[_Look]:
        size, last = batch_size_for(self.program), LastLayer.of(self.program)
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            trace = self._trace(bound, images)
            logits = self.program.logits(images)
            margins = torch.fmax(
                worst_margins(logits, labels, last, trace.post_activation), self._apart(bound, logits, labels)
            )
            right, certified = FIRST.holds(logits, labels, self.program.classes), positive(margins.amin(1))
            certified = certified & right
            safe = right.clone()
            open_ = torch.nonzero(right & ~certified)[:, 0]
            if len(open_):
                safe[open_] = ~self._broken(images[open_], labels[open_])
            yield _Look(
                self.program, trace, logits, labels, worst_logits(logits, labels, margins), right, safe, certified
            )

    def _trace(self, bound: GlobalBound, images: Tensor) -> Trace:
        region = ball(self.program.entering(images), self.eps)
        if self.local:
            return propagate(self.program, region, EstimatedArithmetic(bound, solver=_SOLVER, seed=self.seed))
        return replace(propagate(self.program, region, EstimatedArithmetic(bound, Balls.GLOBAL)), logit_lipschitz=None)

    def _apart(self, bound: GlobalBound, logits: Tensor, labels: Tensor) -> Tensor:
        """Lower bounds on `z_y - z_j` over the ball by the global bound, `[batch, classes]`; infinite for j = y."""
        radii = torch.full((len(labels),), self.eps, dtype=torch.float64, device=labels.device)
        increases = Global(Estimator(self.program, bound)).increases(labels, radii)
        own = F.one_hot(labels, logits.shape[1]).bool()
        return (logits.gather(1, labels[:, None]) - logits - increases).masked_fill(own, torch.inf)

    def _broken(self, images: Tensor, labels: Tensor) -> Tensor:
        """Whether the paper's attack breaks each image, `[batch]`."""
        radii = torch.full((len(images),), self.eps, dtype=torch.float64, device=images.device)
        adversary, around = (
            Adversary(self.program),
            Perturbations.natural(images, radii, self.program.dtype),
        )
        return PGD(steps=self.attack_steps)(adversary, around, labels, self.seed + torch.arange(len(images))).refuted


@dataclass(frozen=True)
class _Look:
    """One batch: its bounds, logits and verdicts."""

    program: Program
    trace: Trace
    logits: Tensor
    labels: Tensor
    worst: Tensor
    right: Tensor
    safe: Tensor
    certified: Tensor

    def varying(self, number: int) -> list[float]:
        """Share of varying outputs of a block, one an image."""
        block = self.program.blocks[number]
        return flat(self.trace.post_activation[block.node].varying).float().mean(1).tolist()


def _combined(looks: list[_Look], named: tuple[Named, ...], bound: GlobalBound) -> HeldOut:
    count = sum(len(look.labels) for look in looks)
    return HeldOut(
        images=count,
        clean_accuracy=_share(look.right for look in looks),
        attacked_accuracy=_share(look.safe for look in looks),
        certified_accuracy=_share(look.certified for look in looks),
        clean_loss=_mean(F.cross_entropy(look.logits, look.labels, reduction="none") for look in looks),
        robust_loss=_mean(F.cross_entropy(look.worst, look.labels, reduction="none") for look in looks),
        global_lipschitz=finite(float(bound.logit_lipschitz)),
        local_lipschitz=_mean(look.trace.logit_lipschitz for look in looks if look.trace.logit_lipschitz is not None),
        layers=tuple(_layers(looks, named)),
    )


def _layers(looks: list[_Look], named: tuple[Named, ...]) -> Iterator[Layer]:
    names = iter(named)
    for number, block in enumerate(looks[0].program.blocks):
        varying = mean(v for look in looks for v in look.varying(number))
        for term in block.terms:
            own, norms = next(names), [look.trace.norms[term] for look in looks if term in look.trace.norms]
            iterations = [i for n in norms for i in n.iterations.tolist()]
            yield Layer(
                own.name,
                own.operator,
                finite(own.global_norm),
                mean(v for n in norms for v in n.value.tolist()),
                varying,
                histogram(iterations, 20) if iterations and not term.is_scaled_permutation else (),
            )


def _share(parts: Iterable[Tensor]) -> float:
    return float(torch.cat(list(parts)).double().mean())


def _mean(parts: Iterable[Tensor]) -> float | None:
    return mean(v for part in parts for v in part.tolist())
