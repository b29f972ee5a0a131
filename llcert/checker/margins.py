"""Rules 7 and 12: lower bounds of margins, by one backward row for the whole ball or one for each part of a branch
cover.

A branch cover is a binary tree whose inner nodes split a pre-activation at a number. Its leaves, the parts, cover the
ball whatever is split where, because every value lies on one side of every split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llcert.checker.activations import Activation
from llcert.checker.backward import lower_bounds, steps
from llcert.checker.files import Arrays, require, valid
from llcert.checker.graph import Graph
from llcert.checker.intermediate import MOST_WORK, portions, work
from llcert.checker.known import Known, Zone
from llcert.checker.numbers import Vector

MOST_PARTS, MOST_SPLITS = 2**18, 2**22
"""Parts of one class, and splits on the paths to all of them together."""


@dataclass(frozen=True)
class Split:
    """A split of an entry of a step of the activation at `cut`: at most `number` on one side, at least on the other."""

    cut: int
    step: int
    entry: int
    number: float


Path = Sequence[tuple[Split, bool]]
"""The path from the root of a tree to a part: splits, each with whether the value is at least its number there."""


def margin(graph: Graph, image: Arrays, known: Known, *, label: int, other: int) -> float:
    """A lower bound of `f(x')_label - f(x')_other` over the ball; NaN or -inf where there is none.

    It is the least over the parts that are not empty, and holds for the real network, and for deployed ones where
    `known` does. Raises Rejected where the evidence is not whole or takes too much work.
    """
    last = len(graph.nodes) - 1
    stop = int(image.integers(f"{other}.stop", 1, last + 1)[0])
    require(stop in known.cuts, f"rule 7 (row), class {other}: stop {stop} is no cut")
    paths = _paths(graph, image, known, other)
    require(len(paths) * work(graph.blocks, last, stop) <= MOST_WORK, f"rule 12 (parts), class {other}: too much work")
    found = []
    for portion in portions(len(paths), max(n.size for n in graph.nodes)):
        chosen = _PartChoices(graph, image, known, other, len(paths), portion, tuple(paths[portion]))
        rows = np.zeros((len(chosen.paths), graph.nodes[last].size))
        rows[:, label], rows[:, other] = 1.0, -1.0
        bounds = lower_bounds(graph.blocks, known, {last: rows}, [np.zeros(len(rows))], stop, chosen)
        found.append(bounds[~chosen.empty])
    bounds = np.concatenate(found)
    require(bounds.size, f"rule 12 (parts), class {other}: every part is empty")
    return float(bounds.min())


def _paths(graph: Graph, image: Arrays, known: Known, other: int) -> list[Path]:
    """The paths to all parts of a class, in the order of the tree; without a tree one part, the whole ball."""
    name, here = f"{other}.tree", f"rule 12 (parts), class {other}"
    if name not in image:
        return [()]
    tree = image.integers(name, None, len(graph.nodes), least=-1)
    require(tree.size <= 2 * MOST_PARTS - 1, f"{here}: more than {MOST_PARTS}")
    places = 1 + np.cumsum(np.where(tree >= 0, 1, -1))  # open places of the tree after each number
    require(tree.size and np.all(places[:-1] > 0) and places[-1] == 0, f"{here}: the tree is not one, or not whole")
    found: list[Path] = []
    path: list[tuple[Split, bool]] = []
    splits, together = iter(_splits(graph, image, known, name, tree[tree >= 0].tolist())), 0
    for cut in tree.tolist():
        if cut >= 0:
            path.append((next(splits), False))
            continue
        found.append(tuple(path))
        together += len(path)
        require(together <= MOST_SPLITS, f"{here}: more than {MOST_SPLITS} splits on the paths to them")
        while path and path[-1][1]:
            path.pop()
        if path:
            path[-1] = (path[-1][0], True)
    return found


def _splits(graph: Graph, image: Arrays, known: Known, name: str, cuts: list[int]) -> list[Split]:
    """The splits of a tree in its order; each must be of an entry that exists. cuts: the activations they split."""
    count = len(cuts)
    step, entry = (image.integers(f"{name}.{part}", count, 2**31).tolist() for part in ("step", "entry"))
    found = [Split(*split) for split in zip(cuts, step, entry, image.vector(f"{name}.at", count).tolist(), strict=True)]
    sizes = {k: tuple(len(z.centre) for z in zones) for k in set(cuts) if (zones := _zones(graph, known, k))}
    for s in found:
        right = s.cut in sizes and s.step < len(sizes[s.cut]) and s.entry < sizes[s.cut][s.step]
        valid(right, f"{image.file}: {name}: a split at block {s.cut}, step {s.step}, entry {s.entry}: there is none")
    return found


def _zones(graph: Graph, known: Known, cut: int) -> tuple[Zone, ...]:
    """The zones of the steps of an activation over the whole ball; none where a cut is no activation."""
    phi = graph.nodes[cut].what
    return steps(phi, known.pre_activation[cut].zone) if isinstance(phi, Activation) else ()


@dataclass(frozen=True)
class _PartChoices:
    """The relaxations of the rows of some parts of a class, one row for each part.

    other: the class. count: of all its parts. portion: those that are passed now, with their paths.
    """

    graph: Graph
    image: Arrays
    known: Known
    other: int
    count: int
    portion: slice
    paths: tuple[Path, ...]

    def slopes(self, cut: int, step: int, rows: Vector) -> Vector:
        return self.image.rows(f"{self.other}.{cut}.slopes.{step}", self.count, rows.shape[1], self.portion)

    def multipliers(self, cut: int, step: int) -> Vector:
        return self.image.positive(f"{self.other}.{cut}.lam.{step}", self.count)[self.portion]

    def end(self, cut: int) -> Vector | None:
        if cut == 0 and not self.known.restricted:
            return None
        return self.image.positive(f"{self.other}.end.{cut}", self.count)[self.portion]

    def zone(self, cut: int, step: int, zone: Zone) -> Zone:
        """The zone of a step in each part: its box is narrowed by the splits on the path to the part."""
        here = [
            (r, s, upper_side)
            for r, path in enumerate(self.paths)
            for s, upper_side in path
            if (s.cut, s.step) == (cut, step)
        ]
        if not here:
            return zone
        lower, upper = (np.tile(ends, (len(self.paths), 1)) for ends in (zone.lower, zone.upper))
        for row, split, upper_side in here:
            if upper_side:
                lower[row, split.entry] = max(lower[row, split.entry], split.number)
            else:
                upper[row, split.entry] = min(upper[row, split.entry], split.number)
        return replace(zone, lower=lower, upper=upper)

    @property
    def empty(self) -> np.ndarray:
        """The parts in which some entry has lower > upper, `[parts]`, bool: no point of the ball lies there."""
        found = np.zeros(len(self.paths), bool)
        for cut, step in {(s.cut, s.step) for path in self.paths for s, _ in path}:
            zone = self.zone(cut, step, _zones(self.graph, self.known, cut)[step])
            found |= np.any(zone.lower > zone.upper, axis=1)
        return found
