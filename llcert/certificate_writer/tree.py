"""Arrays for rule 12: a branch cover as a binary tree (docs/certificate.md, section 1.3).

Branch and bound keeps the parts of a cover and between which numbers pre-activations lie in each. The tree of splits
that they come from is found again here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llcert.bounds.backward.branch_and_bound import Splits
from llcert.bounds.backward.choices import Key
from llcert.certificate_writer.graph import Arrays, CertificateGraph

Entry = tuple[Key, int]
"""An entry of a step of an activation: the step and the number of the entry."""

Known = Mapping[Entry, tuple[float, float]]
"""The interval in which each entry lies in a part; entries that are missing are not restricted."""


@dataclass(frozen=True)
class Split:
    """An inner node of the tree: the entry is at most `at` on the first side, at least `at` on the second."""

    entry: Entry
    at: float


@dataclass(frozen=True)
class Tree:
    """The tree of a branch cover.

    nodes: in preorder, the first side before the second: a split, or None for a part. order: the position in the cover
    of every part, in the order of the tree.
    """

    nodes: tuple[Split | None, ...]
    order: list[int]

    @staticmethod
    def of(splits: Splits) -> Tree:
        """A tree with the parts of a cover, which comes from splitting one entry after the other.

        The root is a split that leaves every part wholly on one side, which the first split of branch and bound does;
        then likewise on either side. Raises ValueError for parts that come from no such tree.
        """
        parts = _known(splits)
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

    def arrays(self, graph: CertificateGraph) -> Arrays:
        """The arrays `tree`, `tree.step`, `tree.entry` and `tree.at` of a class."""
        blocks = graph.program.blocks
        splits = [node for node in self.nodes if node is not None]
        numbers = [-1 if n is None else graph.numbers[blocks[n.entry[0][0]].node] for n in self.nodes]
        return {
            "tree": np.array(numbers, np.int64),
            "tree.step": np.array([s.entry[0][1] for s in splits], np.int64),
            "tree.entry": np.array([s.entry[1] for s in splits], np.int64),
            "tree.at": np.array([s.at for s in splits]),
        }


def _known(splits: Splits) -> list[dict[Entry, tuple[float, float]]]:
    """The intervals of the split entries in every part."""
    parts: list[dict[Entry, tuple[float, float]]] = [{} for _ in next(iter(splits.values()))[0]]
    for key, ends in splits.items():
        low, high = (end.reshape(len(end), -1).cpu() for end in ends)
        for part, entry in torch.nonzero(low.isfinite() | high.isfinite()).tolist():
            parts[part][key, entry] = float(low[part, entry]), float(high[part, entry])
    return parts


def _split(parts: Sequence[Known], some: Sequence[int]) -> tuple[Split, list[int], list[int]]:
    """A split that leaves each of some parts on one side, the parts on its first side, and those on its second."""
    for entry in parts[some[0]]:
        if not all(entry in parts[i] for i in some):
            continue
        for at in sorted({end for i in some for end in parts[i][entry] if math.isfinite(end)}):
            low = [i for i in some if parts[i][entry][1] <= at]
            high = [i for i in some if parts[i][entry][0] >= at and parts[i][entry][1] > at]
            if low and high and len(low) + len(high) == len(some):
                return Split(entry, at), low, high
    raise ValueError("these parts do not come from splitting one entry after the other")
