"""A branch cover as a binary tree, from what is assumed of neurons in each of its parts (docs/certificate.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llcert.bounds.backward.branching import Cuts
from llcert.bounds.backward.choices import Key
from llcert.certificate_writer.canonical import Arrays, Canonical

Entry = tuple[Key, int]
"""An entry of a step of an activation."""

Known = Mapping[Entry, tuple[float, float]]
"""Between which numbers entries lie in a part; an entry that is not there may be anything."""


@dataclass(frozen=True)
class Split:
    """An inner node: an entry is at most this number on the first side, at least on the second."""

    entry: Entry
    at: float


@dataclass(frozen=True)
class Tree:
    """nodes: in preorder, the first side first: a split, or None for a part. order: of the parts in the cover, as the
    tree lists them."""

    nodes: tuple[Split | None, ...]
    order: list[int]

    @staticmethod
    def of(cuts: Cuts) -> Tree:
        """The tree of parts that one entry after the other was cut into.

        Its first split is one that leaves every part wholly on one side, as the first that was made does. Raises
        ValueError for parts that come from no such tree.
        """
        parts = _known(cuts)
        nodes: list[Split | None] = []
        order: list[int] = []
        waiting = [list(range(len(parts)))]
        while waiting:
            some = waiting.pop()
            if len(some) == 1:
                nodes.append(None)
                order += some
                continue
            split, low, high = _split(parts, some)
            nodes.append(split)
            waiting += [high, low]
        return Tree(tuple(nodes), order)

    def arrays(self, canonical: Canonical) -> Arrays:
        """The arrays `tree`, `tree.step`, `tree.entry` and `tree.at`."""
        blocks = canonical.program.blocks
        splits = [node for node in self.nodes if node is not None]
        numbers = [-1 if n is None else canonical.numbers[blocks[n.entry[0][0]].node] for n in self.nodes]
        return {
            "tree": np.array(numbers, np.int64),
            "tree.step": np.array([s.entry[0][1] for s in splits], np.int64),
            "tree.entry": np.array([s.entry[1] for s in splits], np.int64),
            "tree.at": np.array([s.at for s in splits]),
        }


def _known(cuts: Cuts) -> list[dict[Entry, tuple[float, float]]]:
    """What is assumed of each part."""
    parts: list[dict[Entry, tuple[float, float]]] = [{} for _ in next(iter(cuts.values()))[0]]
    for key, ends in cuts.items():
        low, high = (end.reshape(len(end), -1).cpu() for end in ends)
        for part, entry in torch.nonzero(low.isfinite() | high.isfinite()).tolist():
            parts[part][key, entry] = float(low[part, entry]), float(high[part, entry])
    return parts


def _split(parts: Sequence[Known], some: Sequence[int]) -> tuple[Split, list[int], list[int]]:
    """A split of some parts, those on its first side, and the others."""
    for entry in parts[some[0]]:
        if not all(entry in parts[i] for i in some):
            continue
        for at in sorted({end for i in some for end in parts[i][entry] if math.isfinite(end)}):
            low = [i for i in some if parts[i][entry][1] <= at]
            high = [i for i in some if parts[i][entry][0] >= at and parts[i][entry][1] > at]
            if low and high and len(low) + len(high) == len(some):
                return Split(entry, at), low, high
    raise ValueError("these parts do not come from cutting one entry after the other")
