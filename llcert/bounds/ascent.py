"""Better slopes and multipliers for a backward pass, by gradient ascent on the bound it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.dual import Backward, Choice, Chosen, Key
from llcert.bounds.forward import Trace
from llcert.ir import Node
from llcert.layout import PER_ROW, Layout
from llcert.relaxation import Relaxation


@dataclass(frozen=True)
class Ascent:
    """Adam (Kingma and Ba 2015) on the slopes and on the logarithms of the multipliers, every row by itself.

    steps: evaluations of the bound. rate: of the slopes, log_rate: of the logarithms, at the start; both fall to zero
    along a cosine. Whatever it finds is a bound; it returns the best that it met.
    """

    steps: int = 40
    rate: float = 0.1
    log_rate: float = 0.1

    def __call__(
        self, backward: Backward, trace: Trace, rows: Mapping[Node, Tensor], start: Mapping[Key, Choice]
    ) -> tuple[Tensor, dict[Key, Choice]]:
        """The best bounds, `[batch, rows]`, and the choices that give them. start: as a `Tightest` left it."""
        if not start:
            return backward(trace, rows, Chosen({})), {}
        free = {k: _Free.of(c) for k, c in start.items()}
        groups = [
            {"params": [f.slopes for f in free.values()], "lr": self.rate},
            {"params": [f.logs for f in free.values()], "lr": self.log_rate},
        ]
        adam = torch.optim.Adam(groups)
        falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda i: (1 + math.cos(math.pi * i / self.steps)) / 2)
        best: Tensor | None = None
        found: dict[Key, Choice] = {}
        for _ in range(self.steps):
            policy = _Following(free)
            with torch.enable_grad():
                bound = backward(trace, rows, policy)
                if not bound.requires_grad:  # there is nothing to choose
                    return bound, policy.chosen
                adam.zero_grad()
                (-bound.sum()).backward()
            adam.step()
            falling.step()
            best, found = _better(best, bound.detach(), found, policy.chosen)
        assert best is not None
        return best, found


@dataclass(frozen=True)
class _Free:
    """The variables of one step."""

    slopes: Tensor
    logs: Tensor

    @staticmethod
    def of(choice: Choice) -> _Free:
        smallest = choice.lam.clamp(min=1e-6)
        return _Free(choice.slopes.detach().clone().requires_grad_(), smallest.log().requires_grad_())


class _Following:
    """Chooses what the variables say, also for settled entries: less of them is a part of stopping here. Keeps the
    values."""

    def __init__(self, free: Mapping[Key, _Free]) -> None:
        self.free, self.chosen = free, dict[Key, Choice]()

    def __call__(self, key: Key, step: Relaxation, rows: Tensor, layout: Layout = PER_ROW) -> Choice:
        choice = Choice(self.free[key].slopes, self.free[key].logs.exp())
        self.chosen[key] = Choice(choice.slopes.detach().clone(), choice.lam.detach())
        return choice


def _better(
    best: Tensor | None, bound: Tensor, kept: dict[Key, Choice], found: dict[Key, Choice]
) -> tuple[Tensor, dict[Key, Choice]]:
    """Row by row the better of two bounds with their choices; NaN is never better."""
    if best is None:
        return bound, found
    better = (bound > best) | (best.isnan() & ~bound.isnan())
    merged = {}
    for key, new in found.items():
        old = kept[key]
        wide = better.reshape(*better.shape, *[1] * (new.slopes.ndim - 2))
        merged[key] = Choice(torch.where(wide, new.slopes, old.slopes), torch.where(better, new.lam, old.lam))
    return torch.where(better, bound, best), merged
