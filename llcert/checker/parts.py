"""Rules 7 and 12: a lower bound on a margin, by a row for the whole ball or one for each of the parts that cover it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llcert.checker.activations import Activation
from llcert.checker.boxes import MOST_WORK, portions, work
from llcert.checker.files import Arrays, require, valid
from llcert.checker.graph import Graph
from llcert.checker.known import Known, Zone
from llcert.checker.numbers import Vector
from llcert.checker.row import descended, steps

MOST_PARTS, MOST_SPLITS = 2**18, 2**22
"""Parts of one class, and splits on the ways to all of them together."""


@dataclass(frozen=True)
class Split:
    """At a number: a part lies where an entry of a step of an activation is at most, another where it is at least."""

    cut: int
    step: int
    entry: int
    number: float


Way = Sequence[tuple[Split, bool]]
"""From the whole ball to a part: splits, each with whether the value is at least the number there."""


def margin(graph: Graph, image: Arrays, known: Known, *, label: int, other: int) -> float:
    """A lower bound of `f(x')_label - f(x')_other` over the ball; NaN or -inf where there is none.

    The least over the parts that are not empty. Of the real network, and of deployed ones where what is known is.
    """
    last = len(graph.nodes) - 1
    stop = int(image.integers(f"{other}.stop", 1, last + 1)[0])
    require(stop in known.cuts, f"rule 7 (row), class {other}: stop {stop} is no cut")
    ways = _ways(graph, image, known, other)
    require(len(ways) * work(graph.blocks, last, stop) <= MOST_WORK, f"rule 12 (parts), class {other}: too much work")
    found = []
    for portion in portions(len(ways), max(n.size for n in graph.nodes)):
        chosen = _Parts(graph, image, known, other, len(ways), portion, tuple(ways[portion]))
        rows = np.zeros((len(chosen.ways), graph.nodes[last].size))
        rows[:, label], rows[:, other] = 1.0, -1.0
        bounds = descended(graph.blocks, known, {last: rows}, [np.zeros(len(rows))], stop, chosen)
        found.append(bounds[~chosen.empty])
    bounds = np.concatenate(found)
    require(bounds.size, f"rule 12 (parts), class {other}: every part is empty")
    return float(bounds.min())


def _ways(graph: Graph, image: Arrays, known: Known, other: int) -> list[Way]:
    """The ways to the parts of a class; to the whole ball alone where the evidence has no tree."""
    name, here = f"{other}.tree", f"rule 12 (parts), class {other}"
    if name not in image:
        return [()]
    tree = image.integers(name, None, len(graph.nodes), least=-1)
    require(tree.size <= 2 * MOST_PARTS - 1, f"{here}: more than {MOST_PARTS}")
    places = 1 + np.cumsum(np.where(tree >= 0, 1, -1))  # that are still open behind each number
    require(tree.size and np.all(places[:-1] > 0) and places[-1] == 0, f"{here}: the tree is not one, or not whole")
    found: list[Way] = []
    way: list[tuple[Split, bool]] = []
    splits, together = iter(_splits(graph, image, known, name, tree[tree >= 0].tolist())), 0
    for cut in tree.tolist():
        if cut >= 0:
            way.append((next(splits), False))
            continue
        found.append(tuple(way))
        together += len(way)
        require(together <= MOST_SPLITS, f"{here}: more than {MOST_SPLITS} splits on the ways to them")
        while way and way[-1][1]:
            way.pop()
        if way:
            way[-1] = (way[-1][0], True)
    return found


def _splits(graph: Graph, image: Arrays, known: Known, name: str, cuts: list[int]) -> list[Split]:
    """The splits of a tree, in its order, each of a value that there is."""
    count = len(cuts)
    step, entry = (image.integers(f"{name}.{part}", count, 2**31).tolist() for part in ("step", "entry"))
    found = [Split(*split) for split in zip(cuts, step, entry, image.vector(f"{name}.at", count).tolist(), strict=True)]
    sizes = {k: tuple(len(z.centre) for z in zones) for k in set(cuts) if (zones := _zones(graph, known, k))}
    for s in found:
        right = s.cut in sizes and s.step < len(sizes[s.cut]) and s.entry < sizes[s.cut][s.step]
        valid(right, f"{image.file}: {name}: a split at block {s.cut}, step {s.step}, entry {s.entry}: there is none")
    return found


def _zones(graph: Graph, known: Known, cut: int) -> tuple[Zone, ...]:
    """The zones of an activation's steps over the whole ball; none where a cut is no activation."""
    phi = graph.nodes[cut].what
    return steps(phi, known.before[cut].zone) if isinstance(phi, Activation) else ()


@dataclass(frozen=True)
class _Parts:
    """What is chosen for the rows of some parts of a class, one each. count: of all its parts."""

    graph: Graph
    image: Arrays
    known: Known
    other: int
    count: int
    portion: slice
    ways: tuple[Way, ...]

    def slopes(self, cut: int, step: int, rows: Vector) -> Vector:
        return self.image.rows(f"{self.other}.{cut}.slopes.{step}", self.count, rows.shape[1], self.portion)

    def multipliers(self, cut: int, step: int) -> Vector:
        return self.image.positive(f"{self.other}.{cut}.lam.{step}", self.count)[self.portion]

    def end(self, cut: int) -> Vector | None:
        if cut == 0 and not self.known.restricted:
            return None
        return self.image.positive(f"{self.other}.end.{cut}", self.count)[self.portion]

    def zone(self, cut: int, step: int, zone: Zone) -> Zone:
        """The zone of each part: the box is cut by the splits on the way to it."""
        here = [(r, s, above) for r, way in enumerate(self.ways) for s, above in way if (s.cut, s.step) == (cut, step)]
        if not here:
            return zone
        lower, upper = (np.tile(ends, (len(self.ways), 1)) for ends in (zone.lower, zone.upper))
        for row, split, above in here:
            if above:
                lower[row, split.entry] = max(lower[row, split.entry], split.number)
            else:
                upper[row, split.entry] = min(upper[row, split.entry], split.number)
        return replace(zone, lower=lower, upper=upper)

    @property
    def empty(self) -> np.ndarray:
        """Parts in which no value is left to an entry, `[parts]`: no point of the ball lies there."""
        found = np.zeros(len(self.ways), bool)
        for cut, step in {(s.cut, s.step) for way in self.ways for s, _ in way}:
            zone = self.zone(cut, step, _zones(self.graph, self.known, cut)[step])
            found |= np.any(zone.lower > zone.upper, axis=1)
        return found
