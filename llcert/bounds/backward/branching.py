"""Branch and bound: boxes of single pre-activation entries are cut at knots (docs/method.md, section 11).

At every point of the ball an entry lies on one side of each cut, so that the least of the bounds on both sides holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds.backward.alpha import Ascent, enough_to_prove
from llcert.bounds.backward.choices import Choice, Fixed, Key, Tightest
from llcert.bounds.backward.crown import Backward
from llcert.bounds.forward.trace import Trace
from llcert.domain.relaxation import Relaxation
from llcert.ir import Node
from llcert.numerics.tensors import flat

Cuts = Mapping[Key, tuple[Tensor, Tensor]]
"""For steps of activations, what is assumed of their entries: lower and upper ends, `[rows, *shape]`. A step belongs to
one block, so a cut of one activation says nothing of another one that reads the same value."""


@dataclass(frozen=True)
class Leaves:
    """Parts of the ball, each a row with its cuts: together they cover all of it for every row they came from.

    rows: positions of the rows they came from, `[leaves]`. bounds: lower bounds on each part, `[leaves]`. choices: what
    gives them, `[leaves, 1, ...]`.
    """

    rows: Tensor
    bounds: Tensor
    cuts: Cuts
    choices: Mapping[Key, Choice]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, leaves: Tensor) -> Leaves:
        """Some of them; leaves: mask or index."""
        return Leaves(
            self.rows[leaves],
            self.bounds[leaves],
            {k: (low[leaves], high[leaves]) for k, (low, high) in self.cuts.items()},
            {k: Choice(c.slopes[leaves], c.lam[leaves]) for k, c in self.choices.items()},
        )

    def double(self) -> Leaves:
        """The same in float64."""
        return Leaves(
            self.rows,
            self.bounds.double(),
            {k: (low.double(), high.double()) for k, (low, high) in self.cuts.items()},
            {k: Choice(c.slopes.double(), c.lam.double()) for k, c in self.choices.items()},
        )

    @staticmethod
    def joined(parts: list[Leaves]) -> Leaves:
        """All of several collections, at least one."""
        first = parts[0]
        return Leaves(
            torch.cat([p.rows for p in parts]),
            torch.cat([p.bounds for p in parts]),
            {k: _cat([p.cuts[k] for p in parts]) for k in first.cuts},
            {k: Choice(*_cat([(p.choices[k].slopes, p.choices[k].lam) for p in parts])) for k in first.choices},
        )


def _cat(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


@dataclass(frozen=True)
class Branching:
    """Cuts the worst parts first, at the neuron that takes most off the bound; an ascent on each new part.

    seconds: wall clock for one image. width: parts that are cut at a time. reserve: a part is done once its bound
    exceeds this share of the largest logit, so that a proof of it has something to pay its rounding with.
    """

    seconds: float = 10.0
    width: int = 16
    reserve: float = 6e-3
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=15, rate=0.05, patient=True))

    def __call__(self, backward: Backward, trace: Trace, rows: Tensor) -> Leaves:
        """Parts that cover the ball for rows on the logits, all bounds positive if that was reached in time.

        trace: of one image. rows: `[rows, logits]`.
        """
        end = time.perf_counter() + self.seconds
        enough = self.enough(backward, trace)
        root = self._root(backward, trace, rows)
        done = root.bounds > enough
        open_, closed = root.select(~done), [root.select(done)]
        while len(open_) and time.perf_counter() < end:
            worst = open_.bounds.argsort()[: self.width]
            rest = torch.ones_like(open_.bounds, dtype=torch.bool)
            rest[worst] = False
            children = self._children(backward, trace, rows, open_.select(worst))
            if children is None:
                break
            done = children.bounds > enough
            closed.append(children.select(done))
            open_ = Leaves.joined([open_.select(rest), children.select(~done)])
        return Leaves.joined([*closed, open_])

    def enough(self, backward: Backward, trace: Trace) -> float:
        """The bound above which a part of the ball of an image is done."""
        return float(enough_to_prove(backward.program, trace, self.reserve).max())

    def _root(self, backward: Backward, trace: Trace, rows: Tensor) -> Leaves:
        own = trace.select(torch.zeros(len(rows), dtype=torch.int64, device=rows.device))
        objectives = {backward.program.output: rows[:, None]}
        start = backward(own, objectives, Tightest()).linear.choices
        bounds, choices = replace(self.ascent, steps=40)(backward, own, objectives, start)
        nothing = {k: _nothing(_step(backward, own, k)) for k in choices}
        return Leaves(torch.arange(len(rows), device=rows.device), bounds[:, 0], nothing, choices)

    def _children(self, backward: Backward, trace: Trace, rows: Tensor, parents: Leaves) -> Leaves | None:
        """Both halves of every part, with their bounds; None where no neuron is left to cut."""
        own = cut(backward, trace.select(torch.zeros_like(parents.rows)), parents.cuts)
        objectives = {backward.program.output: rows[parents.rows][:, None]}
        where = _largest_losses(backward, own, objectives, parents.choices)
        if where is None:
            return None
        halves = [self._half(backward, own, parents, where, side) for side in (0, 1)]
        both = Leaves.joined(halves)
        own = cut(backward, trace.select(torch.zeros_like(both.rows)), both.cuts)
        objectives = {backward.program.output: rows[both.rows][:, None]}
        start = _settled(backward, own, both.choices, where + where)
        bounds, choices = self.ascent(backward, own, objectives, start, self.enough(backward, trace))
        return replace(both, bounds=torch.fmax(bounds[:, 0], both.bounds), choices=choices)

    def _half(self, backward: Backward, own: Trace, parents: Leaves, where: list[tuple[Key, int]], side: int) -> Leaves:
        cuts = {k: (low.clone(), high.clone()) for k, (low, high) in parents.cuts.items()}
        for leaf, (key, entry) in enumerate(where):
            knot = _step(backward, own, key).knot()[leaf].flatten()[entry]
            _put(cuts[key][1 - side][leaf], entry, knot)
        return replace(parents, cuts=cuts)


def cut(backward: Backward, trace: Trace, cuts: Cuts) -> Trace:
    """The trace with every image's zones cut; the cuts are `[batch, *shape]`."""
    steps: dict[Node, tuple[Relaxation, ...] | None] = {}
    for index, block in enumerate(backward.program.blocks):
        known = trace.relaxations(block)
        if known is not None and block.activation is not None:
            known = tuple(s.cut(*cuts[index, i]) if (index, i) in cuts else s for i, s in enumerate(known))
        steps[block.node] = known
    return replace(trace, _relaxations=steps)


def _put(values: Tensor, entry: int, number: Tensor) -> None:
    """Sets an entry by its place in the flattened values, however they lie in memory."""
    values[torch.unravel_index(torch.tensor(entry), values.shape)] = number


def _step(backward: Backward, trace: Trace, key: Key) -> Relaxation:
    steps = trace.relaxations(backward.program.blocks[key[0]])
    assert steps is not None
    return steps[key[1]]


def _nothing(step: Relaxation) -> tuple[Tensor, Tensor]:
    infinite = torch.full_like(step.zone.lower, torch.inf)
    return -infinite, infinite


def _largest_losses(
    backward: Backward, trace: Trace, rows: Mapping[Node, Tensor], choices: Mapping[Key, Choice]
) -> list[tuple[Key, int]] | None:
    """For each image of the trace the step and the entry that takes most off its bound; None where none takes any."""
    passed = backward(trace, rows, Fixed(choices)).linear.relaxed
    found = {k: flat(_step(backward, trace, k).losses(a, choices[k].slopes, choices[k].lam)) for k, a in passed.items()}
    keys = list(found)
    if not keys:
        return None
    most = torch.stack([found[k].amax(1) for k in keys])
    if not bool((most.amax(0) > 0).all()):
        return None
    best = most.argmax(0).tolist()
    return [(keys[k], int(found[keys[k]][i].argmax())) for i, k in enumerate(best)]


def _settled(
    backward: Backward, trace: Trace, choices: Mapping[Key, Choice], where: list[tuple[Key, int]]
) -> dict[Key, Choice]:
    """The choices, with the function's own slope at the entry that was cut in each leaf, where that settled it."""
    better = {k: Choice(c.slopes.clone(), c.lam) for k, c in choices.items()}
    for leaf, (key, entry) in enumerate(where):
        settled, own = _step(backward, trace, key).settled
        if bool(settled[leaf].flatten()[entry]):
            _put(better[key].slopes[leaf, 0], entry, own[leaf].flatten()[entry])
    return better


def bounded(
    backward: Backward,
    trace: Trace,
    rows: Mapping[Node, Tensor],
    leaves: Leaves,
    ascent: Ascent,
    enough: Tensor,
) -> Leaves:
    """The leaves with their bounds over the trace, by their own choices, or by an ascent's where these do not suffice.

    trace, rows, enough: of each leaf; enough: above it a bound need not get any better, `[leaves]`.
    """
    own = cut(backward, trace, leaves.cuts)
    bounds = backward(own, rows, Fixed(leaves.choices)).lower[:, 0]
    left = torch.nonzero(~(bounds > enough))[:, 0]
    if len(left) == 0:
        return replace(leaves, bounds=bounds)
    some = leaves.select(left)
    own = cut(backward, trace.select(left), some.cuts)
    better, found = ascent(backward, own, {n: r[left] for n, r in rows.items()}, some.choices, enough[left, None])
    bounds[left] = torch.fmax(bounds[left], better[:, 0])
    choices = {k: Choice(c.slopes.clone(), c.lam.clone()) for k, c in leaves.choices.items()}
    for key, choice in found.items():
        choices[key].slopes[left], choices[key].lam[left] = choice.slopes, choice.lam
    return replace(leaves, bounds=bounds, choices=choices)
