"""Optimised slopes and multipliers of a backward pass (alpha-CROWN), by gradient ascent on its bound.

For objectives that the closed form leaves open, and for branch and bound; docs/method.md, section 9.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.backward.choices import Choice, Key, fixed
from llcert.bounds.backward.crown import Backward
from llcert.bounds.forward.trace import Trace
from llcert.ir import Node
from llcert.numerics.tensors import flat
from llcert.program import Program

_LOOK = 5
"""Steps between two checks of which images are done."""

_MEAN, _SQUARE = 0.9, 0.999
"""Adam's decay rates of the first and the second moment of the gradient."""


@dataclass(frozen=True)
class Ascent:
    """Adam (Kingma and Ba 2015) on the slopes and on the logarithms of the multipliers, every row by itself.

    Every iterate is a bound, and the best one of each row is returned. An image leaves the ascent once the bounds of
    all its rows are large enough or hopeless: after two thirds of the steps they are still negative by more than they
    have gained. steps: evaluations of the bound. rate, log_rate: of the slopes and of the logarithms at the start; both
    fall to zero along a cosine. patient: takes no row for hopeless.
    """

    steps: int = 30
    rate: float = 0.04
    log_rate: float = 0.1
    patient: bool = False

    def __call__(
        self,
        backward: Backward,
        trace: Trace,
        rows: Mapping[Node, Tensor],
        start: Mapping[Key, Choice],
        enough: float | Tensor = math.inf,
    ) -> tuple[Tensor, dict[Key, Choice]]:
        """The best bounds, `[batch, rows]`, and the choices that give them.

        rows: the objectives, as of `Backward`. start: the choices of a backward pass of these rows. enough: the bound
        above which a row is done, one for all or broadcastable to `[batch, rows]`.
        """
        if not start:
            return backward(trace, rows, fixed({})).lower, {}
        climb = _Climb(start)
        best, found = climb.evaluate(backward, trace, rows)
        needed = torch.as_tensor(enough, dtype=best.dtype, device=best.device).expand_as(best)
        first, images = best.clone(), torch.arange(len(best), device=best.device)
        for step in range(1, self.steps):
            fall = (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2
            if not climb.move((self.rate * fall, self.log_rate * fall), step):
                break
            if step % _LOOK == 0:
                bounds, late = best[images], not self.patient and step >= 2 * self.steps / 3
                done = (bounds > needed[images]) | (late & (bounds < first[images] - bounds))
                left = torch.nonzero(~done.all(1))[:, 0]
                if len(left) == 0:
                    break
                if len(left) < len(images):
                    images, trace = images[left], trace.select(left)
                    rows = {n: r[left] for n, r in rows.items()}
                    climb.select(left)
            bound, chosen = climb.evaluate(backward, trace, rows)
            _keep(best, found, images, bound, chosen)
        return best, found


def enough_to_prove(program: Program, trace: Trace, share: float = 6e-3) -> Tensor:
    """The margin, `[batch, 1]`, above which an estimate most likely has a proof, which pays for rounding.

    share: that many times the largest logit of the image.
    """
    return share * flat(trace.post_activation[program.output].region.centre.abs()).amax(1, keepdim=True)


@dataclass
class _Variable:
    """A variable of the ascent with Adam's moments: slopes, `[batch, rows, *shape]`, or logarithms of multipliers,
    `[batch, rows]`."""

    value: Tensor
    mean: Tensor
    square: Tensor

    @staticmethod
    def of(value: Tensor) -> _Variable:
        return _Variable(value, torch.zeros_like(value), torch.zeros_like(value))

    def select(self, images: Tensor) -> _Variable:
        return _Variable(self.value[images], self.mean[images], self.square[images])

    def move(self, gradient: Tensor, rate: float, step: int) -> None:
        """One step of Adam, upwards; step: counted from 1."""
        self.mean.lerp_(gradient, 1 - _MEAN)
        self.square.mul_(_SQUARE).addcmul_(gradient, gradient, value=1 - _SQUARE)
        size = (self.square / (1 - _SQUARE**step)).sqrt_().add_(1e-8)
        self.value = self.value.detach() + self.mean / size * (rate / (1 - _MEAN**step))


class _Climb:
    """The slopes and multipliers of every relaxation as variables, and the gradient of the bound last evaluated."""

    def __init__(self, start: Mapping[Key, Choice]) -> None:
        self.free = {
            k: (_Variable.of(c.slopes.clone()), _Variable.of(c.lam.clamp(min=1e-6).log())) for k, c in start.items()
        }
        self.gradients: tuple[Tensor, ...] = ()

    def select(self, images: Tensor) -> None:
        """Keeps the variables of some images; images: index."""
        self.free = {k: (slopes.select(images), logs.select(images)) for k, (slopes, logs) in self.free.items()}

    def evaluate(
        self, backward: Backward, trace: Trace, rows: Mapping[Node, Tensor]
    ) -> tuple[Tensor, dict[Key, Choice]]:
        """The bound, `[batch, rows]`, and the choices that give it."""
        with torch.enable_grad():
            leaves = [v.value.requires_grad_() for pair in self.free.values() for v in pair]
            choices = {k: Choice(s.value, logs.value.exp()) for k, (s, logs) in self.free.items()}
            found = backward(trace, rows, fixed(choices))
            bound = found.lower
            self.gradients = ()
            if bound.requires_grad:
                self.gradients = torch.autograd.grad(bound.sum(), leaves, materialize_grads=True)
        chosen = {k: Choice(c.slopes.detach(), c.lam.detach()) for k, c in found.linear.choices.items()}
        return bound.detach(), chosen

    def move(self, rates: tuple[float, float], step: int) -> bool:
        """Moves all variables along the last gradient; False where the bound does not depend on any.

        rates: of slopes and of logarithms. step: counted from 1.
        """
        if not self.gradients:
            return False
        variables = [(v, rate) for pair in self.free.values() for v, rate in zip(pair, rates, strict=True)]
        for (variable, rate), gradient in zip(variables, self.gradients, strict=True):
            variable.move(gradient, rate, step)
        return True


def _keep(
    best: Tensor, found: Mapping[Key, Choice], images: Tensor, bound: Tensor, chosen: Mapping[Key, Choice]
) -> None:
    """Replaces, in place and row by row, the best bounds and their choices by better ones; NaN is never better.

    best, found: of all images. bound, chosen: of some, `images`.
    """
    better = (bound > best[images]) | (best[images].isnan() & ~bound.isnan())
    best[images] = torch.where(better, bound, best[images])
    for key, new in chosen.items():
        old = found[key]
        wide = better.reshape(*better.shape, *[1] * (new.slopes.ndim - 2))
        old.slopes[images] = torch.where(wide, new.slopes, old.slopes[images])
        old.lam[images] = torch.where(better, new.lam, old.lam[images])
