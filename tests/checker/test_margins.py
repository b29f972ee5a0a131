"""Rule 12: parts prove a margin only as the leaves of one whole tree."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker import Result, margins

from .cases import Case, only, rehash, write
from .generator import Evidence, evidence
from .networks import Toy
from .refined import (
    Held,
    changed,
    with_rows,
    written_refined,
)


def bent() -> Toy:
    """`0.6 - relu(x) + 2 relu(x - 0.5)` against 0: at least 0.1, by linear bounds over |x| <= 1 at least -0.15."""
    toy = Toy(classes=2)
    z = toy.add("linear", [toy.add("input", [], 1)], 2, A=np.ones((2, 1)), b=np.array([0.0, -0.5]))
    h = toy.add("clamp", [z], 2, low=np.zeros(2), high=np.full(2, np.inf))
    toy.add("linear", [h], 2, A=np.array([[-1.0, 2.0], [0.0, 0.0]]), b=np.array([0.6, 0.0]))
    return toy


def bent_row(slopes: list[list[float]], **more: Any) -> Held:
    count = len(slopes)
    return {"1.stop": np.int64(0), "1.2.slopes.0": np.ravel(slopes), "1.2.lam.0": np.zeros(count)} | more


def test_parts_prove_what_no_row_for_the_whole_ball_does(tmp_path: Path) -> None:
    """x <= 0, x in [0, 0.5], x >= 0.5: slopes of what is a line anyway carry what a cut knows to the other neuron."""
    toy, rng = bent(), np.random.default_rng(0)
    x, eps = np.zeros(1), Fraction(1)

    def result(name: str, row: Held) -> Result:
        found = evidence(toy, x, float(eps), rng)
        return only(write(tmp_path / name, toy, eps, [(0, Evidence(found.arrays | row, {}, {}))], version=3))

    for number, slope in enumerate(np.linspace(0, 1, 9)):
        assert "class 1: margin" in result(str(number), bent_row([[0.5, slope]])).reason
    tree = {"1.tree": np.array([2, -1, 2, -1, -1]), "1.tree.step": np.zeros(2, int), "1.tree.entry": np.array([0, 1])}
    whole = bent_row([[0, 0], [1, 0.5], [1, 0.5]], **tree, **{"1.tree.at": np.zeros(2)})
    assert result("parts", whole).margin == pytest.approx(0.1, abs=1e-9)
    assert "class 1: margin" in result("swapped", whole | {"1.tree.entry": np.array([1, 0])}).reason


def with_tree() -> tuple[Case, str]:
    case, at = with_rows(".tree")
    return case, f"{at['.tree']}.tree"


def replaced(folder: Path, case: Case, edit: Callable[[Held], object]) -> Result:
    written_refined(case, folder)
    np.savez(folder / "images" / "0.npz", **changed(case, edit))
    return only(rehash(folder))


BAD_TREES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a part is missing": lambda v: v[:-1],
    "a part too many": lambda v: np.append(v, -1),
    "two trees": lambda v: np.concatenate((v, v)),
    "nothing": lambda v: v[:0],
    "splits alone": lambda v: v[v >= 0],
    "backwards": lambda v: v[::-1],
    "behind the end": lambda v: np.concatenate(([-1], v[:-1])),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_parts_cover_the_ball_only_as_the_leaves_of_one_whole_tree(name: str, tmp_path: Path) -> None:
    case, key = with_tree()
    result = replaced(tmp_path, case, lambda a: a.update({key: BAD_TREES[name](a[key])}))
    assert result.reason.endswith("the tree is not one, or not whole")


@pytest.mark.parametrize("limit", ["MOST_PARTS", "MOST_SPLITS", "MOST_WORK"])
def test_trees_that_are_too_large_are_refused(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = with_tree()
    monkeypatch.setattr(margins, limit, 1)
    assert ": rule 12 (parts), class " in only(written_refined(case, tmp_path)).reason


def test_a_split_is_of_a_value_that_there_is(tmp_path: Path) -> None:
    case, key = with_tree()
    plain = next(k for k, n in enumerate(case.toy.nodes) if n["kind"] == "linear")

    def first(a: Held, cut: int) -> None:
        a[key][0] = cut

    edits: dict[str, Callable[[Held], object]] = {
        f"a split at block {plain}, ": lambda a: first(a, plain),
        "a split at block 0, ": lambda a: first(a, 0),
        "step 2, ": lambda a: a[f"{key}.step"].__setitem__(0, 2),
        "entry 1000000: ": lambda a: a[f"{key}.entry"].__setitem__(0, 10**6),
        "an integer outside": lambda a: a[f"{key}.entry"].__setitem__(0, -1),
        "NaN or inf": lambda a: a[f"{key}.at"].__setitem__(0, np.nan),
        f"{key}.at is missing": lambda a: a.pop(f"{key}.at"),
    }
    for number, (said, edit) in enumerate(edits.items()):
        assert said in replaced(tmp_path / str(number), case, edit).reason


def test_every_part_has_a_row_of_its_own(tmp_path: Path) -> None:
    case, key = with_tree()
    other = key.removesuffix(".tree")
    name = next(n for n in case.found.arrays if n.startswith(f"{other}.") and ".lam." in n)
    assert "shape" in replaced(tmp_path / "short", case, lambda a: a.update({name: a[name][:-1]})).reason
    whole = ("", ".step", ".entry", ".at")
    result = replaced(tmp_path / "alone", case, lambda a: [a.pop(key + part) for part in whole])
    assert "shape" in result.reason


def test_an_empty_part_proves_itself_and_no_other(tmp_path: Path) -> None:
    """A split outside of the box: nothing is left on one side, and the other is the whole ball."""
    toy, x = bent(), np.zeros(1)
    found = evidence(toy, x, 0.25, np.random.default_rng(0)).arrays
    tree = {"1.tree": np.array([2, -1, -1]), "1.tree.step": np.zeros(1, int), "1.tree.entry": np.zeros(1, int)}

    def result(name: str, at: float, slopes: list[list[float]]) -> Result:
        row = bent_row(slopes, **tree, **{"1.tree.at": np.array([at])})
        return only(write(tmp_path / name, toy, Fraction(1, 4), [(0, Evidence(found | row, {}, {}))], version=3))

    good, bad = [0.5, 0.0], [0.5, 9.0]
    assert result("below", -1.0, [bad, good]).accepted
    assert result("above", 1.0, [good, bad]).accepted
    assert "class 1: margin" in result("not below", -1.0, [good, bad]).reason
    assert "class 1: margin" in result("not above", 1.0, [bad, good]).reason


def test_a_part_of_one_value_is_not_empty(tmp_path: Path) -> None:
    toy, x = bent(), np.zeros(1)
    found = evidence(toy, x, 0.25, np.random.default_rng(0)).arrays
    tree = {"1.tree": np.array([2, -1, -1]), "1.tree.step": np.zeros(1, int), "1.tree.entry": np.zeros(1, int)}
    at = {"1.tree.at": found["2.lower"][:1]}
    for number, (slopes, proved) in enumerate((([9.0, 0.0], False), ([0.0, 0.0], True))):
        row = bent_row([slopes, [0.5, 0.0]], **tree, **at)
        folder = write(tmp_path / str(number), toy, Fraction(1, 4), [(0, Evidence(found | row, {}, {}))], version=3)
        assert only(folder).accepted == proved
