"""Rules 11 and 12: boxes by backward rows and parts of the ball, sound ones and false ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeds import sizes

from llcert.checker import Result, boxes, check, parts
from llcert.checker.files import Arrays
from llcert.checker.forward import propagate
from llcert.checker.graph import build
from llcert.checker.known import Known
from llcert.errors import InvalidInput

from .cases import Case, rehash, worst_margin, write
from .generator import Evidence, evidence
from .networks import Toy, graph_json, model_arrays
from .refined import refined_case, values
from .test_certificates import all_in_float32

SEEDS = range(12)
Held = dict[str, Any]


def case_of(seed: int) -> Case:
    """Every third of deployed evaluations."""
    return refined_case(seed, single=seed % 3 == 0)


def written(case: Case, folder: Path, *, single: bool = False) -> Path:
    images = [(case.label, case.found)]
    return write(folder, case.toy, case.eps, images, "float32" if single else "real", version=3)


def only(folder: Path) -> Result:
    (result,) = check(folder)
    return result


def known(case: Case, arrays: Held, *, single: bool = False) -> Known:
    """What the checker proves of every value. Raises InvalidInput."""
    network = build(graph_json(case.toy), wrapped(model_arrays(case.toy)))
    with np.errstate(all="ignore"):
        return propagate(network, wrapped(arrays), float(case.eps), run=single)


def wrapped(arrays: Held) -> Arrays:
    return Arrays("images/0.npz", {k: np.asarray(v) for k, v in arrays.items()})


def points(case: Case, rng: np.random.Generator, count: int = 400) -> np.ndarray:
    """Of the ball, many on its surface, some along single axes."""
    d = rng.normal(size=(count, case.x.size)) ** rng.choice([1, 3], (count, 1))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    d[::3] *= rng.random((len(d[::3]), 1))
    return np.asarray(case.x + d * float(case.eps) * (1 - 1e-12))


def holds(case: Case, found: Known, rng: np.random.Generator, *, single: bool = False) -> bool:
    """Whether all values at points of the ball lie in what is known of them; single: as float32 computes them."""
    x, right = points(case, rng), True
    every = all_in_float32(case.toy, x.astype(np.float32), rng) if single else values(case.toy, x)
    for k, before in found.before.items():
        n = case.toy.nodes[k]
        z, zone = every[n["inputs"][0] if n["kind"] in ("clamp", "leaky", "maxmin") else k].astype(float), before.zone
        right &= bool(np.all((zone.lower <= z) & (z <= zone.upper)))
        right &= bool(np.all(np.linalg.norm((z - zone.centre) * zone.weights, axis=1) <= zone.radius))
        right &= bool(np.all((found.cuts[k].lower <= every[k]) & (every[k] <= found.cuts[k].upper)))
    return right


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_proved_is_accepted_and_what_is_accepted_is_true(seed: int, tmp_path: Path) -> None:
    single = seed % 3 == 0
    case, rng = case_of(seed), np.random.default_rng(seed)
    result = only(written(case, tmp_path, single=single))
    assert result.accepted, result.reason
    assert result.margin == pytest.approx(min(case.found.margins.values()), rel=1e-6, abs=1e-7)
    assert worst_margin(case.toy, case.x, case.label, float(case.eps), rng) >= result.margin
    found = known(case, case.found.arrays, single=single)
    assert holds(case, found, rng)
    if single:
        assert holds(case, found, rng, single=True)
        y = all_in_float32(case.toy, points(case, rng).astype(np.float32), rng)[-1].astype(float)
        others = [j for j in range(y.shape[1]) if j != case.label]
        assert (y[:, [case.label]] - y[:, others]).min() >= result.margin


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_and_parts_taken_in_small_portions_give_the_same(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(seed)
    folder = written(case, tmp_path)
    whole = only(folder)
    monkeypatch.setattr(boxes, "AT_ONCE", 1)
    assert only(folder).margin == pytest.approx(whole.margin, abs=1e-12)


def test_boxes_need_their_rows() -> None:
    said = []
    for seed in SEEDS:
        case = case_of(seed)
        held = {n: v for n, v in case.found.arrays.items() if not n.endswith(".rows")}
        try:
            known(case, held)
        except InvalidInput as failure:
            said.append(str(failure)[: len("rule 2 (box), block")])
    assert set(said) == {"rule 2 (box), block"}
    assert len(said) >= len(SEEDS) // 2


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


# what is false


def changed(case: Case, edit: Callable[[Held], object]) -> Held:
    held = {n: np.copy(v) for n, v in case.found.arrays.items()}
    edit(held)
    return held


def with_rows(*names: str) -> tuple[Case, dict[str, int]]:
    """A case whose evidence has arrays that end so, and the first block of each."""
    for seed in range(60):
        case = case_of(seed)
        held = sorted(case.found.arrays, key=lambda n: [int(p) if p.isdecimal() else 0 for p in n.split(".")])
        found = {name: int(n.split(".")[n.startswith("first.")]) for name in names for n in held if n.endswith(name)}
        if len(found) == len(names):
            return case, found
    raise AssertionError(names)


def reason(case: Case, edit: Callable[[Held], object]) -> str:
    with pytest.raises(InvalidInput) as failure:
        known(case, changed(case, edit))
    return str(failure.value)


BAD_ROWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "twice": (lambda v: np.repeat(v, 2), "not in order, or none"),
    "none": (lambda v: v[:0], "not in order, or none"),
    "backwards": (lambda v: np.append(v, 0), "not in order, or none"),
    "outside": (lambda v: np.append(v, 10**6), "an integer outside"),
    "negative": (lambda v: v - 10**6, "an integer outside"),
    "numbers": (lambda v: v.astype(float), "numbers of type"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_entries_are_some_of_the_block_in_order(name: str) -> None:
    to, said = BAD_ROWS[name]
    case, at = with_rows(".rows")
    key = f"{at['.rows']}.rows"
    assert said in reason(case, lambda a: a.update({key: to(a[key])}))


def test_a_row_stops_before_the_block_it_bounds() -> None:
    """A row that stopped at the block itself would prove its box by its box."""
    case, at = with_rows(".rows")
    k = at[".rows"]
    for stop in (k, k + 1, len(case.toy.nodes)):
        assert "an integer outside" in reason(case, lambda a, stop=stop: a.update({f"{k}.rows.stop": np.int64(stop)}))
    free = next(i for i in range(1, k) if i not in case.toy.cuts)
    said = reason(case, lambda a: a.update({f"{k}.rows.stop": np.int64(free)}))
    assert said == f"rule 11 (rows), block {k}: stop {free} is no cut before it"


@pytest.mark.parametrize("array", ["lower", "upper", "weights", "radius", "after", "norm"])
def test_first_regions_are_checked_by_every_rule_and_not_by_rows(array: str) -> None:
    """Tighter by a share, also where there are rows for the very block."""
    rules = {"lower": 2, "upper": 2, "weights": 3, "radius": 5, "after": 6, "norm": 4}
    named = 0
    for seed in SEEDS:
        case = case_of(seed)
        firsts = [n for n in case.found.arrays if n.startswith("first.") and f".{array}" in n]
        if not firsts:
            continue
        rowed = [n for n in firsts if f"{n.split('.')[1]}.rows" in case.found.arrays]

        def tighten(a: Held, name: str = (rowed or firsts)[0]) -> None:
            centre = a[f"{name.split('.')[1]}.centre"] if array in ("lower", "upper") else 0.0
            a[name] = centre + (a[name] - centre) * 0.98

        try:
            known(case, changed(case, tighten))
        except InvalidInput as failure:
            named += f"rule {rules[array]}" in str(failure)
    assert named >= 3


def test_a_first_region_has_the_centre_of_the_other() -> None:
    case, at = with_rows(".rows")
    k = at[".rows"]
    known(case, changed(case, lambda a: a.update({f"first.{k}.centre": a[f"{k}.centre"] * np.nan})))


def test_a_box_that_rows_do_not_reach_is_rejected() -> None:
    named = 0
    for seed in SEEDS:
        case = case_of(seed)
        blocks = [int(n.removesuffix(".rows")) for n in case.found.arrays if n.endswith(".rows")]
        for k in blocks:

            def tighten(a: Held, k: int = k) -> None:
                i = a[f"{k}.rows"]
                c = a[f"{k}.centre"][i]
                a[f"{k}.lower"][i] = c + (a[f"{k}.lower"][i] - c) * 0.999

            try:
                known(case, changed(case, tighten))
            except InvalidInput as failure:
                named += str(failure).startswith(f"rule 2 (box), block {k}")
    assert named >= 6


def test_too_much_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = with_rows(".rows")
    monkeypatch.setattr(boxes, "MOST_WORK", 10)
    assert "rule 11 (rows)" in reason(case, lambda a: None)


def with_tree() -> tuple[Case, str]:
    case, at = with_rows(".tree")
    return case, f"{at['.tree']}.tree"


def replaced(folder: Path, case: Case, edit: Callable[[Held], object]) -> Result:
    written(case, folder)
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
    monkeypatch.setattr(parts, limit, 1)
    assert ": rule 12 (parts), class " in only(written(case, tmp_path)).reason


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


# corruption


def corrupted(kind: str, rng: np.random.Generator, case: Case) -> Held:
    """One change to the arrays of an image."""
    held = {n: np.copy(v) for n, v in case.found.arrays.items()}
    ends = {"slopes": ("plus", "minus"), "lam": (".lower", ".upper")}.get(kind, (kind,))
    names = [n for n in held if n.endswith(ends) and (kind != "lam" or ".lam." in n)]
    names = [n for n in names if not n.startswith("first.")] if kind != "first" else names
    if kind == "first":
        names = [n for n in held if n.startswith("first.")]
    if kind == "bit":
        names = [n for n in held if ".rows" in n or ".slopes." in n or ".tree" in n or n.startswith("first.")]
    if not names:
        return held
    name = names[rng.integers(len(names))]
    v = np.atleast_1d(held[name])
    i = int(rng.integers(v.size))
    match kind:
        case "slopes":
            v = v + rng.normal(size=v.shape) * 0.2
        case "lam":
            v = v * 3
        case ".rows":
            v = np.unique(rng.integers(0, held[f"{name.removesuffix('.rows')}.lower"].size, v.size))
        case ".rows.stop" | ".stop":
            v = np.array([rng.choice(case.toy.cuts)])
        case ".tree":
            v[i] = rng.integers(-1, len(case.toy.nodes))
        case ".step":
            v[i] = 1 - v[i]
        case ".entry":
            v[i] = rng.integers(0, 8)
        case ".at":
            v[i] = rng.normal()
        case "first":
            v[i] = v[i] + rng.normal() * 0.1
        case "bit":
            bits = v.view(np.uint64)
            bits[i] ^= np.uint64(1) << np.uint64(rng.integers(64))
    return held | {name: v}


KINDS = ("bit", "slopes", "lam", ".rows", ".rows.stop", ".stop", ".tree", ".step", ".entry", ".at", "first")


@pytest.mark.parametrize("tried", sizes(6, 40))
@pytest.mark.parametrize("kind", KINDS)
def test_no_corruption_is_accepted_with_a_false_claim(kind: str, tried: int, tmp_path: Path) -> None:
    for seed in range(tried):
        rng, case = np.random.default_rng(seed), case_of(seed)
        written(case, tmp_path)
        arrays = corrupted(kind, rng, case)
        np.savez(tmp_path / "images" / "0.npz", **arrays)
        result = only(rehash(tmp_path))
        assert result.accepted or (result.reason and "\n" not in result.reason)
        if result.accepted:
            assert worst_margin(case.toy, case.x, case.label, float(case.eps), rng, 400) >= result.margin
            assert holds(case, known(case, arrays), rng)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, "3", None])
def test_formats_1_to_3_are_read(version: Any, tmp_path: Path) -> None:
    folder = written(case_of(0), tmp_path)
    content = json.loads((folder / "certificate.json").read_text()) | {"format": version}
    (folder / "certificate.json").write_text(json.dumps(content))
    if version in (1, 2, 3):
        assert only(folder).accepted
    else:
        with pytest.raises(InvalidInput, match="not of format 1 or 2 or 3"):
            only(folder)
