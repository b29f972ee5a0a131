"""Forged certificates whose numbers underflow in the checker are rejected by the rule that they break, and honest
ones of networks of the same kind are accepted."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from llcert.checker import Result, check
from llcert.checker.files import Arrays
from llcert.checker.graph import build

from .cases import write
from .generator import Evidence
from .networks import Toy, graph_json, model_arrays


def linear(toy: Toy, at: int, rows: list[list[float]], offset: list[float] | None = None) -> int:
    b = np.zeros(len(rows)) if offset is None else np.array(offset)
    return toy.add("linear", [at], len(rows), A=np.array(rows), b=b)


def chain(toy: Toy, at: int, *exponents: int) -> int:
    """Multiplies by powers of two, a node each."""
    for exponent in exponents:
        at = linear(toy, at, [[2.0**exponent]])
    return at


def input_of_one() -> Toy:
    toy = Toy(classes=2)
    toy.add("input", [], 1)
    return toy


def cut(k: int, centre: Any, half: Any, radius: float, *, weights: float = 1.0, **more: float) -> dict[str, Any]:
    """What rules 1 to 6 ask of a block: a box around its centre, and a ball."""
    centre = np.atleast_1d(np.asarray(centre, float))
    found = {"centre": centre, "lower": centre - half, "upper": centre + half, "weights": np.full(centre.size, weights)}
    return {f"{k}.{name}": values for name, values in (found | {"radius": radius, "after": radius} | more).items()}


def result(folder: Path, toy: Toy, arrays: Mapping[str, Any]) -> Result:
    found = {name: np.asarray(values) for name, values in ({"x": np.zeros(1)} | dict(arrays)).items()}
    write(folder, toy, Fraction(1), [(0, Evidence(found, {}, {}))])
    (checked,) = check(folder)
    return checked


def composed(folder: Path, *, power: int, scale: float, norm: float, half: float, offset: float) -> Result:
    """A block of 22 nodes that divides and multiplies by powers of two: the identity."""
    toy = input_of_one()
    a = linear(toy, 0, [[scale]])
    z = chain(toy, a, *[-power] * 11, *[power] * 11)
    f = linear(toy, z, [[1.0], [0.0]], [offset, 0.0])
    toy.extra |= {a, z}
    arrays = cut(a, 0.0, 1.01 * scale, 1.1 * scale, **{"norm.0": 1.01 * scale})
    arrays |= cut(z, 0.0, half, half, **{f"norm.{a}": norm})
    arrays |= cut(f, [offset, 0.0], np.array([1.1 * half, 1.0]), 1.2 * half, **{f"norm.{z}": 1.01})
    return result(folder, toy, arrays | {"1.stop": z, f"1.end.{z}": 0.0})


def test_a_composed_map_that_underflows(tmp_path: Path) -> None:
    forged = composed(tmp_path / "a", power=99, scale=2.0**200, norm=2.0**-60, half=2.0**158, offset=2.0**170)
    assert "rule 2 (box), block 23" in forged.reason
    forged = composed(tmp_path / "b", power=99, scale=2.0**200, norm=2.0**-60, half=2.0**1010, offset=2.0**1015)
    assert "rule 4 (norm), block 23" in forged.reason
    honest = composed(tmp_path / "c", power=9, scale=1.0, norm=1.01, half=1.2, offset=4.0)
    assert honest.accepted, honest.reason


def test_maps_that_underflow_still_meet() -> None:
    """Their radii add up: no root of squares."""
    toy = input_of_one()
    a, b = linear(toy, 0, [[1.0]]), linear(toy, 0, [[2.0]])
    both = toy.add("add", [chain(toy, a, *[-99] * 11), chain(toy, b, 0)], 1)
    linear(toy, both, [[1.0], [0.0]])
    toy.extra |= {a, b, both}
    graph = build(graph_json(toy), Arrays("model.npz", model_arrays(toy)))
    assert not graph.blocks[both].disjoint
    assert graph.blocks[both].maps[a].sizes.nnz == 1


def shared(folder: Path, *, share: float, joint: float, radius: float, offset: float) -> Result:
    """`2^340 x - 2^342`, by an entry of 2^1000 and a slope of 2^-660."""
    toy = input_of_one()
    a = linear(toy, 0, [[2.0**1000]], [-(2.0**1002)])
    h = toy.add("leaky", [a], 1, below=np.array([2.0**-660]))
    z = linear(toy, h, [[1.0], [0.0]], [2.0**342 + offset, 0.0])
    slope = 2.0**-660 * 1.0001
    given = {"joint": joint, "shares": np.array([share])}
    arrays = cut(h, -(2.0**1002), 2.0**1000 * 1.001, radius, weights=slope, **given)
    reach = radius * 1.02
    arrays |= cut(z, [offset, 0.0], np.array([2 * reach, 1.0]), 4 * reach, **{f"norm.{h}": 1.01})
    return result(folder, toy, arrays | {"1.stop": h, f"1.end.{h}": 0.0})


def test_a_share_that_underflows(tmp_path: Path) -> None:
    forged = shared(tmp_path / "a", share=2.0**-420, joint=2.0**-399 * 1.001, radius=2.0**300, offset=2.0**322)
    assert "rule 4 (norm), block 2, joint" in forged.reason
    honest = shared(tmp_path / "b", share=1.0, joint=2.0**340 * 1.001, radius=2.0**340 * 1.01, offset=2.0**343)
    assert honest.accepted, honest.reason


def vanishing(folder: Path, offset: float) -> Result:
    """`2^-700 x + offset` in four nodes of one block: the row is 2^-1200 on the way, on a value of 2^500."""
    toy = input_of_one()
    beside = linear(toy, 0, [[1.0]])
    z = linear(toy, chain(toy, 0, 500, -600, -600), [[1.0], [0.0]], [offset, 0.0])
    toy.extra |= {beside}
    arrays = cut(beside, 0.0, 2.0, 2.0, **{"norm.0": 1.01})
    arrays |= cut(z, [offset, 0.0], 2.0**320, 2.0**320, **{"norm.0": 2.0**310})
    return result(folder, toy, arrays | {"1.stop": beside})


def test_a_row_that_underflows(tmp_path: Path) -> None:
    assert "rule 7 (row), class 1: margin" in vanishing(tmp_path / "a", 2.0**-710).reason
    honest = vanishing(tmp_path / "b", 1.0)
    assert honest.accepted, honest.reason
