"""Branch and bound: boxes of single pre-activation entries are split at knots (docs/method.md, section 11).

At every point of the ball an entry lies on one side of its split, so that the least of the bounds on both sides holds.
For the stage `branch` and its proof.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds.backward.alpha import Ascent, enough_to_prove
from llcert.bounds.backward.choices import Choice, Key, fixed, tightest
from llcert.bounds.backward.crown import Backward
from llcert.bounds.forward.trace import Trace
from llcert.domain.relaxation import Relaxation
from llcert.ir import Node
from llcert.numerics.tensors import flat

Splits = Mapping[Key, tuple[Tensor, Tensor]]
"""For each relaxation the box that its entries are assumed to lie in: lower and upper ends, `[rows, *shape]`. Every
relaxation belongs to one block, so a split says nothing of another activation of the same value."""


@dataclass(frozen=True)
class Leaves:
    """Leaves of search trees: parts of the ball that together cover all of it for every objective.

    rows: the position of each leaf's objective, `[leaves]`. bounds: lower bounds of it on the part, `[leaves]`. splits:
    boxes that define the part. choices: slopes and multipliers that give the bounds, `[leaves, 1, ...]`.
    """

    rows: Tensor
    bounds: Tensor
    splits: Splits
    choices: Mapping[Key, Choice]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, leaves: Tensor) -> Leaves:
        """Some of the leaves; leaves: mask or index."""
        return Leaves(
            self.rows[leaves],
            self.bounds[leaves],
            {k: (low[leaves], high[leaves]) for k, (low, high) in self.splits.items()},
            {k: Choice(c.slopes[leaves], c.lam[leaves]) for k, c in self.choices.items()},
        )

    def double(self) -> Leaves:
        """The leaves in float64."""
        return Leaves(
            self.rows,
            self.bounds.double(),
            {k: (low.double(), high.double()) for k, (low, high) in self.splits.items()},
            {k: Choice(c.slopes.double(), c.lam.double()) for k, c in self.choices.items()},
        )

    @staticmethod
    def joined(parts: list[Leaves]) -> Leaves:
        """The leaves of several collections, at least one."""
        first = parts[0]
        return Leaves(
            torch.cat([p.rows for p in parts]),
            torch.cat([p.bounds for p in parts]),
            {k: _cat([p.splits[k] for p in parts]) for k in first.splits},
            {k: Choice(*_cat([(p.choices[k].slopes, p.choices[k].lam) for p in parts])) for k in first.choices},
        )


def _cat(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


@dataclass(frozen=True)
class BranchAndBound:
    """Splits the worst leaves first, at the entry that takes most off the bound; an ascent bounds each new leaf.

    seconds: wall clock for one image. width: the number of leaves that are split together. reserve: a leaf is done once
    its bound exceeds this share of the largest logit, which pays for the rounding of its proof.
    """

    seconds: float = 10.0
    width: int = 16
    reserve: float = 6e-3
    ascent: Ascent = field(default_factory=lambda: Ascent(steps=15, rate=0.05, patient=True))

    def __call__(self, backward: Backward, trace: Trace, rows: Tensor) -> Leaves:
        """Leaves that cover the ball for each row on the logits, all bounds positive if that was reached in time.

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
        """The bound above which a leaf of an image is done. trace: of that image."""
        return float(enough_to_prove(backward.program, trace, self.reserve).max())

    def _root(self, backward: Backward, trace: Trace, rows: Tensor) -> Leaves:
        own = trace.select(torch.zeros(len(rows), dtype=torch.int64, device=rows.device))
        objectives = {backward.program.output: rows[:, None]}
        start = backward(own, objectives, tightest).linear.choices
        bounds, choices = replace(self.ascent, steps=40)(backward, own, objectives, start)
        unsplit = {k: _unsplit(_relaxation(backward, own, k)) for k in choices}
        return Leaves(torch.arange(len(rows), device=rows.device), bounds[:, 0], unsplit, choices)

    def _children(self, backward: Backward, trace: Trace, rows: Tensor, parents: Leaves) -> Leaves | None:
        """Both halves of every leaf, with their bounds; None where no entry is left to split."""
        own = with_splits(backward, trace.select(torch.zeros_like(parents.rows)), parents.splits)
        objectives = {backward.program.output: rows[parents.rows][:, None]}
        where = _largest_losses(backward, own, objectives, parents.choices)
        if where is None:
            return None
        halves = [self._half(backward, own, parents, where, side) for side in (0, 1)]
        both = Leaves.joined(halves)
        own = with_splits(backward, trace.select(torch.zeros_like(both.rows)), both.splits)
        objectives = {backward.program.output: rows[both.rows][:, None]}
        start = _with_stable_slopes(backward, own, both.choices, where + where)
        bounds, choices = self.ascent(backward, own, objectives, start, self.enough(backward, trace))
        return replace(both, bounds=torch.fmax(bounds[:, 0], both.bounds), choices=choices)

    def _half(self, backward: Backward, own: Trace, parents: Leaves, where: list[tuple[Key, int]], side: int) -> Leaves:
        splits = {k: (low.clone(), high.clone()) for k, (low, high) in parents.splits.items()}
        for leaf, (key, entry) in enumerate(where):
            knot = _relaxation(backward, own, key).knot()[leaf].flatten()[entry]
            _put(splits[key][1 - side][leaf], entry, knot)
        return replace(parents, splits=splits)


def with_splits(backward: Backward, trace: Trace, splits: Splits) -> Trace:
    """The trace of a part of the ball: the box of every relaxation is intersected with that of its split.

    trace: without splits. splits: `[batch, *shape]`.
    """
    blocks = backward.program.blocks
    return replace(trace, splits={(blocks[index].node, number): box for (index, number), box in splits.items()})


def _put(values: Tensor, entry: int, number: Tensor) -> None:
    """Sets an entry, given by its place in the flattened values, in whatever memory order these are."""
    values[torch.unravel_index(torch.tensor(entry), values.shape)] = number


def _relaxation(backward: Backward, trace: Trace, key: Key) -> Relaxation:
    known = trace.relaxations(backward.program.blocks[key[0]])
    assert known is not None
    return known[key[1]]


def _unsplit(relaxation: Relaxation) -> tuple[Tensor, Tensor]:
    """The box of no split at all."""
    infinite = torch.full_like(relaxation.zone.lower, torch.inf)
    return -infinite, infinite


def _largest_losses(
    backward: Backward, trace: Trace, rows: Mapping[Node, Tensor], choices: Mapping[Key, Choice]
) -> list[tuple[Key, int]] | None:
    """For each image of the trace the relaxation and the entry that takes most off its bound; None where none does."""
    passed = backward(trace, rows, fixed(choices)).linear.relaxed
    found = {
        k: flat(_relaxation(backward, trace, k).losses(a, choices[k].slopes, choices[k].lam)) for k, a in passed.items()
    }
    keys = list(found)
    if not keys:
        return None
    most = torch.stack([found[k].amax(1) for k in keys])
    if not bool((most.amax(0) > 0).all()):
        return None
    best = most.argmax(0).tolist()
    return [(keys[k], int(found[keys[k]][i].argmax())) for i, k in enumerate(best)]


def _with_stable_slopes(
    backward: Backward, trace: Trace, choices: Mapping[Key, Choice], where: list[tuple[Key, int]]
) -> dict[Key, Choice]:
    """The choices, but at the entry that was split in each leaf the slope of the function itself, where the entry's new
    box lies in one linear piece."""
    better = {k: Choice(c.slopes.clone(), c.lam) for k, c in choices.items()}
    for leaf, (key, entry) in enumerate(where):
        stable, own = _relaxation(backward, trace, key).stable
        if bool(stable[leaf].flatten()[entry]):
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
    """The leaves with bounds over another trace, by their own choices, or by an ascent where these do not suffice.

    trace, rows: of each leaf. enough: the bound above which a leaf is done, `[leaves]`.
    """
    own = with_splits(backward, trace, leaves.splits)
    bounds = backward(own, rows, fixed(leaves.choices)).lower[:, 0]
    left = torch.nonzero(~(bounds > enough))[:, 0]
    if len(left) == 0:
        return replace(leaves, bounds=bounds)
    some = leaves.select(left)
    own = with_splits(backward, trace.select(left), some.splits)
    better, found = ascent(backward, own, {n: r[left] for n, r in rows.items()}, some.choices, enough[left, None])
    bounds[left] = torch.fmax(bounds[left], better[:, 0])
    choices = {k: Choice(c.slopes.clone(), c.lam.clone()) for k, c in leaves.choices.items()}
    for key, choice in found.items():
        choices[key].slopes[left], choices[key].lam[left] = choice.slopes, choice.lam
    return replace(leaves, bounds=bounds, choices=choices)
