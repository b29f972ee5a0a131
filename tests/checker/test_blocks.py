"""The affine part of a block against exact fractions: its value, its transpose, and its matrix from every source."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from llcert.checker.blocks import Block
from llcert.checker.files import Arrays
from llcert.checker.graph import Graph, build
from llcert.checker.numbers import gamma

from .networks import Toy, graph_json, model_arrays, random_toy, value

SEEDS = range(20)
_exact = np.vectorize(Fraction, otypes=[object])


def drawn(seed: int) -> tuple[Toy, Graph, np.random.Generator]:
    rng = np.random.default_rng(seed)
    toy = random_toy(rng)
    return toy, build(graph_json(toy), Arrays("model.npz", model_arrays(toy))), rng


def body_value(toy: Toy, block: Block, sources: dict[int, Any], *, offsets: bool = True) -> np.ndarray:
    """The value of a block before its activation in fractions."""
    known = {s: _exact(h) for s, h in sources.items()}
    for number in block.nodes:
        node = dict(toy.nodes[number])
        if node["kind"] == "linear":
            node |= {"A": _exact(node["A"]), "b": _exact(node["b"]) if offsets else _exact(0 * node["b"])}
        known[number] = value(node, [known[i] for i in node["inputs"]])
    return known[block.pre]


def source_values(toy: Toy, block: Block, rng: np.random.Generator) -> dict[int, np.ndarray]:
    return {s: rng.normal(size=toy.nodes[s]["size"]) for s in block.sources}


def replace_matrices(toy: Toy, change: Any) -> Toy:
    """The same network with other matrices."""
    return replace(toy, nodes=[{**n, "A": change(n["A"])} if "A" in n else n for n in toy.nodes])


@pytest.mark.parametrize("seed", SEEDS)
def test_values_and_half_widths_err_no_more_than_they_say(seed: int) -> None:
    toy, graph, rng = drawn(seed)
    for block in graph.blocks.values():
        sources = source_values(toy, block, rng)
        size, total = block.size({s: np.abs(h) for s, h in sources.items()})
        wrong = np.abs(_exact(block.value(sources)) - body_value(toy, block, sources))
        assert np.all(wrong <= Fraction(gamma(block.forwards)) * _exact(size))
        assert total >= float(size.sum())
        widths = {s: np.abs(h) for s, h in sources.items()}
        magnitudes = replace_matrices(toy, np.abs)
        exact = body_value(magnitudes, block, widths, offsets=False)
        assert np.all(np.abs(_exact(block.halfwidth(widths)) - exact) <= Fraction(gamma(block.forwards)) * exact)
        offsets = replace(toy, nodes=[{**n, "b": np.abs(n["b"])} if "b" in n else n for n in magnitudes.nodes])
        assert np.all(_exact(size) >= body_value(offsets, block, widths))


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_on_a_value_are_those_on_its_sources(seed: int) -> None:
    """`sum_s (A_s* row) . h_s` and a lower bound of `row . b` fall short of `row . z` by no more than is stated."""
    toy, graph, rng = drawn(seed)
    for block in graph.blocks.values():
        sources = source_values(toy, block, rng)
        z = body_value(toy, block, sources)
        rows = rng.normal(size=(3, len(z)))
        size, _ = block.size({s: np.abs(h) for s, h in sources.items()})
        found, constant = block.transposed(rows)
        assert set(found) == set(block.sources)
        for i, row in enumerate(_exact(rows)):
            total = Fraction(float(constant[i])) + sum(_exact(found[s][i]) @ _exact(h) for s, h in sources.items())
            allowed = Fraction(gamma(2 * block.backwards + 2 * len(z) + 8)) * (np.abs(row) @ _exact(size))
            assert abs(total - row @ z) <= allowed


@pytest.mark.parametrize("seed", SEEDS)
def test_matrices_from_every_source(seed: int) -> None:
    toy, graph, _ = drawn(seed)
    for block in graph.blocks.values():
        for s, found in block.maps.items():
            columns = []
            for unit in np.eye(toy.nodes[s]["size"]):
                others = {t: np.zeros(toy.nodes[t]["size"]) for t in block.sources}
                columns.append(body_value(toy, block, {**others, s: unit}, offsets=False))
            exact = np.stack(columns, 1)
            matrix, sizes = (_exact(m.toarray()) for m in (found.matrix, found.sizes))
            assert np.all(np.abs(matrix - exact) <= Fraction(gamma(found.roundings)) * sizes)
            assert np.all(np.abs(exact) <= sizes)
            assert np.all((exact == 0) | (found.sizes.toarray() > 0))


def test_blocks_are_disjoint_only_behind_a_concatenation() -> None:
    seen = 0
    for seed in range(200):
        _, graph, _ = drawn(seed)
        for block in graph.blocks.values():
            together = sum(np.any(m.matrix.toarray() != 0, axis=1).astype(int) for m in block.maps.values())
            assert not block.disjoint or np.all(together <= 1)
            seen += block.disjoint and len(block.maps) > 1
    assert seen > 10
