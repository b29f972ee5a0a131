"""Rule 11: intermediate bounds, that is, bounds of single entries of a block's value by backward rows from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llcert.checker.backward import lower_bounds, through_body
from llcert.checker.blocks import Block
from llcert.checker.files import Arrays, Integers, require, valid
from llcert.checker.known import Known, Roundoff, Zone
from llcert.checker.numbers import Vector

AT_ONCE = 2**18
"""Numbers that rows may hold together at the largest value they pass: more rows are taken in portions."""
MOST_WORK = 2**37
"""Products that all rows of one block, or of one class, may take."""


@dataclass(frozen=True)
class BackwardBoxes:
    """Intermediate bounds from the evidence of an image.

    known: the boxes and balls over which rows are bounded on their way: first regions where there are any (section
    2.3).
    """

    blocks: Mapping[int, Block]
    known: Known
    image: Arrays

    def narrowed(self, block: Block, roundoff: Roundoff, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
        """The box [lower, upper] of a block's value, narrowed by the bounds of the rows that the evidence has for its
        entries.

        roundoff: of the body of the block itself, which the rows pass first.
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
        lower[entries] = np.maximum(lower[entries], self._least(block, roundoff, entries, stop, "lower"))
        upper[entries] = np.minimum(upper[entries], -self._least(block, roundoff, entries, stop, "upper"))
        return lower, upper

    def _stop(self, block: Block) -> int:
        """The cut at which the rows of a block stop: `k.rows.stop`, or the input where that is missing."""
        name = f"{block.cut}.rows.stop"
        stop = int(self.image.integers(name, 1, block.cut)[0]) if name in self.image else 0
        require(stop in self.known.cuts, f"rule 11 (rows), block {block.cut}: stop {stop} is no cut before it")
        return stop

    def _least(self, block: Block, roundoff: Roundoff, entries: Integers, stop: int, side: str) -> Vector:
        """Lower bounds of the entries of a block's value (side `lower`), or of their negatives (`upper`)."""
        found, widest = [], max(len(c.centre) for c in self.known.cuts.values())
        for portion in portions(entries.size, max(widest, roundoff.size.size)):
            rows = np.zeros((entries[portion].size, roundoff.size.size))
            rows[np.arange(len(rows)), entries[portion]] = 1.0 if side == "lower" else -1.0
            pending, terms = dict[int, Vector](), list[Vector]()
            through_body(block, roundoff, rows, pending, terms, self.known)
            choices = _RowChoices(self.image, f"{block.cut}.rows", side, entries.size, portion)
            found.append(lower_bounds(self.blocks, self.known, pending, terms, stop, choices))
        return np.concatenate(found)


def portions(count: int, widest: int) -> Iterator[slice]:
    """`count` rows in portions of as many as `AT_ONCE` allows, where the largest value has `widest` numbers."""
    step = max(AT_ONCE // widest, 1)
    yield from (slice(start, start + step) for start in range(0, count, step))


def work(blocks: Mapping[int, Block], start: int, stop: int) -> int:
    """About how many products it takes to bring one row from cut `start` down to cut `stop`."""
    return sum(b.products for k, b in blocks.items() if stop < k <= start)


@dataclass(frozen=True)
class _RowChoices:
    """The relaxations of the rows for one side of a block's box: slopes by the sign of a coefficient, shared by all
    rows, and multipliers for each row.

    name: of the rows in the evidence, `k.rows`. count: of all rows. portion: those that are passed now.
    """

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
