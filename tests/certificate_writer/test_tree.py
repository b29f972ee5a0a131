"""Trees of branch covers, rebuilt from what is assumed in each part."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from llcert.certificate_writer.tree import Entry, Split, Tree

KEYS = {(0, 0): (4,), (1, 0): (2, 3), (1, 1): (1,)}
"""Steps, and the shapes of their values."""


def cover(seed: int, parts: int) -> tuple[dict[tuple[int, int], tuple[Tensor, Tensor]], int]:
    """A cover by splitting one part after the other at an entry, some of them several times, in random order."""
    draw = random.Random(seed)
    leaves: list[dict[Entry, tuple[float, float]]] = [{}]
    while len(leaves) < parts:
        leaf = leaves.pop(draw.randrange(len(leaves)))
        key = draw.choice(list(KEYS))
        entry = key, draw.randrange(torch.Size(KEYS[key]).numel())
        low, high = leaf.get(entry, (-float("inf"), float("inf")))
        at = draw.uniform(max(low, -1.0), min(high, 1.0))
        leaves += [{**leaf, entry: (low, at)}, {**leaf, entry: (at, high)}]
    draw.shuffle(leaves)
    splits = {}
    for key, shape in KEYS.items():
        low = torch.full((len(leaves), *shape), -torch.inf, dtype=torch.float64)
        high = torch.full_like(low, torch.inf)
        for number, leaf in enumerate(leaves):
            for (k, e), (a, b) in leaf.items():
                if k == key:
                    low[number].view(-1)[e], high[number].view(-1)[e] = a, b
        splits[key] = low, high
    return splits, len(leaves)


def regions(nodes: list[Split | None]) -> list[dict[Entry, tuple[float, float]]]:
    """What a tree says of each of its parts, read from the left."""
    found: list[dict[Entry, tuple[float, float]]] = []

    def read(known: dict[Entry, tuple[float, float]]) -> None:
        node = nodes.pop(0)
        if node is None:
            found.append(known)
            return
        low, high = known.get(node.entry, (-float("inf"), float("inf")))
        read({**known, node.entry: (low, min(high, node.at))})
        read({**known, node.entry: (max(low, node.at), high)})

    read({})
    assert not nodes
    return found


@pytest.mark.parametrize("seed", range(30))
def test_the_parts_of_a_tree_are_those_of_the_cover(seed: int) -> None:
    splits, count = cover(seed, 2 + seed)
    tree = Tree.of(splits)
    assert sorted(tree.order) == list(range(count))
    for part, known in zip(tree.order, regions(list(tree.nodes)), strict=True):
        for key, (low, high) in splits.items():
            for entry in range(low[part].numel()):
                ends = float(low[part].flatten()[entry]), float(high[part].flatten()[entry])
                assert known.get((key, entry), (-float("inf"), float("inf"))) == ends


def test_parts_that_no_tree_has_are_refused() -> None:
    """Three parts of a square, each of which lies on both sides of any split of the others."""
    low = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0], [-1.0, -1.0]])
    high = torch.tensor([[torch.inf, 0.5], [0.5, torch.inf], [1.0, 1.0]])
    with pytest.raises(ValueError, match="one entry after the other"):
        Tree.of({(0, 0): (low, high)})
