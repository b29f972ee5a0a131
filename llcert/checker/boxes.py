"""Rule 11: bounds of single entries of a block's value, by rows that are taken backwards from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llcert.checker.blocks import Block
from llcert.checker.files import Arrays, Integers, require, valid
from llcert.checker.known import Known, Passage, Zone
from llcert.checker.numbers import Vector
from llcert.checker.row import descended, pass_body

AT_ONCE = 2**18
"""Numbers of the largest value that rows hold together while they are taken down."""
MOST_WORK = 2**37
"""Products that the rows of one block, or of one class, may take."""


@dataclass(frozen=True)
class BackwardBoxes:
    """Bounds by rows, of a network and the evidence of an image. known: what rows are bounded over on their way."""

    blocks: Mapping[int, Block]
    known: Known
    image: Arrays

    def cut(self, block: Block, passage: Passage, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        """A box of a block's value, cut by the rows that the evidence has for its entries.

        passage: what rows lose on their way through the block itself.
        """
        name = f"{block.cut}.rows"
        if name not in self.image:
            return lower, upper
        entries = self.image.integers(name, None, lower.size)
        valid(entries.size and np.all(np.diff(entries) > 0), f"{self.image.file}: {name}: not in order, or none")
        stop = self._stop(block)
        taken = entries.size * work(self.blocks, block.cut, stop)
        require(taken <= MOST_WORK, f"rule 11 (rows), block {block.cut}: too much work")
        lower, upper = lower.copy(), upper.copy()
        lower[entries] = np.maximum(lower[entries], self._least(block, passage, entries, stop, "lower"))
        upper[entries] = np.minimum(upper[entries], -self._least(block, passage, entries, stop, "upper"))
        return lower, upper

    def _stop(self, block: Block) -> int:
        """Where rows stop: at the input, if nothing else is said."""
        name = f"{block.cut}.rows.stop"
        stop = int(self.image.integers(name, 1, block.cut)[0]) if name in self.image else 0
        require(stop in self.known.cuts, f"rule 11 (rows), block {block.cut}: stop {stop} is no cut before it")
        return stop

    def _least(self, block: Block, passage: Passage, entries: Integers, stop: int, side: str) -> Vector:
        """Lower bounds of these entries (side `lower`) or of their negatives (`upper`)."""
        found, widest = [], max(len(c.centre) for c in self.known.cuts.values())
        for portion in portions(entries.size, max(widest, passage.size.size)):
            rows = np.zeros((entries[portion].size, passage.size.size))
            rows[np.arange(len(rows)), entries[portion]] = 1.0 if side == "lower" else -1.0
            pending, terms = dict[int, Vector](), list[Vector]()
            pass_body(block, passage, rows, pending, terms, self.known)
            choices = _Side(self.image, f"{block.cut}.rows", side, entries.size, portion)
            found.append(descended(self.blocks, self.known, pending, terms, stop, choices))
        return np.concatenate(found)


def portions(count: int, widest: int) -> Iterator[slice]:
    """Some of `count` rows at a time, as many as `AT_ONCE` allows where a value has `widest` numbers."""
    step = max(AT_ONCE // widest, 1)
    yield from (slice(start, start + step) for start in range(0, count, step))


def work(blocks: Mapping[int, Block], start: int, stop: int) -> int:
    """Products that a row takes from one cut to another, about."""
    return sum(b.products for k, b in blocks.items() if stop < k <= start)


@dataclass(frozen=True)
class _Side:
    """What is chosen for rows on one side of a block's box: slopes by the sign of a row, multipliers for each."""

    image: Arrays
    name: str
    side: str
    count: int
    portion: slice

    def slopes(self, cut: int, step: int, rows: Vector) -> Vector:
        plus, minus = (self.image.vector(f"{cut}.slopes.{step}.{sign}", rows.shape[1]) for sign in ("plus", "minus"))
        return np.where(rows >= 0, plus, minus)

    def multipliers(self, cut: int, step: int) -> Vector:
        return self.image.positive(f"{self.name}.{cut}.lam.{step}.{self.side}", self.count)[self.portion]

    def end(self, cut: int) -> Vector | None:
        name = f"{self.name}.end.{cut}.{self.side}"
        return None if cut == 0 and name not in self.image else self.image.positive(name, self.count)[self.portion]

    def zone(self, cut: int, step: int, zone: Zone) -> Zone:
        return zone
