"""Sound certificates are accepted, and nothing false is, whatever is done to a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeds import sizes

from llcert.checker import Result, check, open_certificate
from llcert.checker.deployed import check_thresholds, errors
from llcert.checker.files import Arrays
from llcert.checker.forward import propagate
from llcert.checker.graph import build
from llcert.errors import InvalidInput

from .cases import Case, random_case, rehash, worst_margin, write
from .generator import evidence
from .networks import Toy, graph_json, model_arrays, random_toy, value

SEEDS = range(25)


def written(case: Case, folder: Path, semantics: str = "real") -> Path:
    return write(folder, case.toy, case.eps, [(case.label, case.found)], semantics)


def only(folder: Path) -> Result:
    (result,) = check(folder)
    return result


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the arrays of an npz file, or the object of a JSON file, and puts the hashes right again."""
    path = folder / name
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
    else:
        with np.load(path) as held:
            arrays = dict(held)
        edit(arrays)
        np.savez(path, **arrays)
    rehash(folder)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_proved_is_accepted_and_what_is_accepted_is_true(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, margin=seed % 3 > 0)
    result = only(written(case, tmp_path))
    assert result.accepted == case.proved, result.reason
    if result.accepted:
        assert result.margin == pytest.approx(min(case.found.margins.values()), rel=1e-6, abs=1e-7)
        found = worst_margin(case.toy, case.x, case.label, float(case.eps), np.random.default_rng(seed))
        assert found >= result.margin
    else:
        assert result.reason.startswith("image 0: rule 7 (row), class ")


@pytest.mark.parametrize("seed", range(25))
def test_float32_evaluations_stay_within_the_proved_margin(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, margin=True, single=True)
    result = only(written(case, tmp_path, "float32"))
    assert result.accepted, result.reason
    change(tmp_path, "certificate.json", lambda c: c.update(semantics="real"))
    real = only(tmp_path).margin
    assert real - 1e-4 < result.margin < real
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(200, case.x.size))
    x = case.x + d / np.linalg.norm(d, axis=1, keepdims=True) * float(case.eps) * (1 - 1e-15)
    y = in_float32(case, x.astype(np.float32), rng)
    others = [j for j in range(y.shape[1]) if j != case.label]
    assert (y[:, [case.label]].astype(float) - y[:, others]).min() >= result.margin


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-8])
def test_every_point_of_the_ball_is_rounded_to_float32_first(eps: float) -> None:
    """The smaller the ball, the more of its points float32 moves out of it."""
    rng = np.random.default_rng(1)
    toy = random_toy(rng)
    x = rng.normal(size=toy.nodes[0]["size"])
    graph = build(graph_json(toy), arrays(model_arrays(toy)))
    evidenced = arrays(evidence(toy, x, eps, rng, single=True).arrays)
    with np.errstate(all="ignore"):
        known = propagate(graph, evidenced, eps, run=True)
        with pytest.raises(InvalidInput, match="rule"):
            propagate(graph, arrays(evidence(toy, x, eps, rng).arrays), eps, run=True)
    points = (x + rng.normal(size=(50, x.size)) * eps / 10 / np.sqrt(x.size)).astype(np.float32)
    assert np.linalg.norm(points - x, axis=1).min() > eps
    for k, cut in known.cuts.items():
        values = all_in_float32(toy, points, rng)[k]
        assert np.all((cut.lower <= values) & (values <= cut.upper))
        assert np.all(np.linalg.norm(values - cut.centre, axis=1) <= cut.after)


@pytest.mark.parametrize("seed", range(10))
def test_evidence_of_real_numbers_is_none_of_float32(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, margin=True)
    reason = only(written(case, tmp_path, "float32")).reason
    assert any(f"rule {n}" in reason for n in (2, 5, 6)), reason


def arrays(found: dict[str, Any]) -> Arrays:
    return Arrays("file", {k: np.asarray(v) for k, v in found.items()})


def test_float32_values_err_no_more_than_the_rule_says_and_not_much_less() -> None:
    """Of layers wide enough for the order of summation to show."""
    rng, toy = np.random.default_rng(0), Toy(classes=10)
    at = toy.add("input", [], 300)
    for kind in ("leaky", "clamp", "maxmin"):
        A, b = (
            v.astype(np.float32).astype(float)
            for v in (rng.normal(size=(200, toy.nodes[at]["size"])) / 12, rng.normal(size=200))
        )
        at = toy.add("linear", [at], 200, A=A, b=b)
        if kind == "leaky":
            at = toy.add("leaky", [at], 200, below=np.full(200, float(np.float32(0.1))))
        elif kind == "clamp":
            at = toy.add("clamp", [at], 200, low=np.zeros(200), high=np.full(200, 2.0))
        else:
            never = np.full(100, np.inf)
            at = toy.add("maxmin", [at], 200, first=np.arange(100), second=np.arange(100, 200), low=-never, high=never)
    toy.add("linear", [at], 10, A=rng.normal(size=(10, 200)).astype(np.float32).astype(float), b=np.zeros(10))
    x = rng.normal(size=300)
    graph = build(graph_json(toy), arrays(model_arrays(toy)))
    with np.errstate(all="ignore"):
        known = propagate(graph, arrays(evidence(toy, x, 1e-3, rng, single=True).arrays), 1e-3, run=True)
    points = (x + rng.normal(size=(20, 300)) * 1e-3 / 40).astype(np.float32)
    values = all_in_float32(toy, points, rng)
    for k, block in graph.blocks.items():
        (node,) = block.nodes
        (source,) = block.sources
        exact = values[source].astype(float) @ toy.nodes[node]["A"].T + toy.nodes[node]["b"]
        found, allowed = abs(values[node] - exact), known.before[k].passage.lost
        assert np.all(found <= allowed)
        assert np.all(allowed <= 300 * found.max())
        if block.activation is not None:
            own = abs(values[k] - block_value(toy, k, values[node].astype(float)))
            assert np.all(own <= known.before[k].own)
        cut = known.cuts[k]
        assert np.all((cut.lower <= values[k]) & (values[k] <= cut.upper))
        assert np.all(np.linalg.norm(values[k] - cut.centre, axis=1) <= cut.after)


def block_value(toy: Toy, k: int, z: np.ndarray) -> np.ndarray:
    return value(toy.nodes[k], [z])


@pytest.mark.parametrize("seed", range(5))
def test_batch_norm_in_float32_errs_no_more_than_the_rule_says(seed: int) -> None:
    """However a kernel computes it: the mean taken off first, or all in one factor and one shift."""
    rng, n, eps = np.random.default_rng(seed), 1000, np.float32(1e-5)
    weight, bias, mean = (rng.normal(size=n).astype(np.float32) for _ in range(3))
    variance, x = rng.uniform(1e-6, 2, n).astype(np.float32), rng.normal(size=n).astype(np.float32)
    x[:250] *= np.float32(1e-3)
    A = weight.astype(float) / np.sqrt(variance.astype(float) + float(eps))
    b = bias - mean * A
    toy = Toy(classes=n)
    toy.add("linear", [toy.add("input", [], n)], n, A=np.diag(A), b=b)
    held = model_arrays(toy) | {"1.magnitude": np.abs(bias) + np.abs(mean * A)}
    block = build(graph_json(toy), arrays(held)).blocks[1]
    exact = A * x + b
    allowed = errors(block, {0: np.abs(x).astype(float)}, np.abs(exact))
    reciprocal = (1 / np.sqrt(variance + eps)) * weight
    for factor in (weight / np.sqrt(variance + eps), reciprocal):
        for y in ((x - mean) * factor + bias, x * factor + (bias - mean * factor)):
            assert y.dtype == np.float32
            assert np.all(np.abs(y - exact) <= allowed)
            assert np.any(np.abs(y - exact) >= allowed / 8)


def shifts(rng: np.random.Generator, n: int) -> Toy:
    """Entries with one sign or the other, shifted; some differences of two, some offsets of zero."""
    toy, A = Toy(classes=n), np.diag(rng.choice([-1.0, 1.0], n))
    A[: n // 2, n // 2 :] -= np.eye(n // 2)
    b = (rng.normal(size=n) * rng.choice([0, 1, 1e3], n)).astype(np.float32).astype(float)
    toy.add("linear", [toy.add("input", [], n)], n, A=A, b=b, exact=True)
    return toy


@pytest.mark.parametrize("flushed", [False, True])
def test_shifts_err_no_more_than_a_rounding_of_each_sum(flushed: bool) -> None:
    rng, n = np.random.default_rng(0), 1000
    toy = shifts(rng, n)
    x = (rng.normal(size=n) * rng.choice([1e-39, 1e-3, 1], n)).astype(np.float32)
    block = build(graph_json(toy), arrays(model_arrays(toy))).blocks[1]
    A, b = toy.nodes[1]["A"], toy.nodes[1]["b"]
    read = np.where(abs(x) < 2.0**-126, np.float32(0), x) if flushed else x
    terms = np.concatenate([A.astype(np.float32) * read, b.astype(np.float32)[:, None]], 1)
    held = [row[row != 0] for row in terms]
    exact, sums = A @ x.astype(float) + b, np.maximum((A != 0) @ (x != 0).astype(int) + (b != 0) - 1, 0)
    allowed = errors(block, {0: np.abs(x).astype(float)}, np.abs(exact))
    for order in (lambda row: row, lambda row: row[::-1], np.sort):
        y = np.array([np.add.accumulate(order(row), dtype=np.float32)[-1] if len(row) else 0 for row in held])
        assert np.all(np.abs(y - exact) <= allowed)
    assert np.all(allowed <= 1.01 * 2.0**-24 * sums * (np.abs(A) @ np.abs(x) + np.abs(b)) + 2.0**-120)


@pytest.mark.parametrize("change", ["factor", "magnitude", "word", "offset"])
def test_what_is_not_exact_is_refused(change: str) -> None:
    rng = np.random.default_rng(0)
    toy = shifts(rng, 6)
    held, graph = model_arrays(toy), graph_json(toy)
    if change == "factor":
        held["1.data"][2] = 1 + 2.0**-52
    if change == "magnitude":
        held["1.magnitude"] = held["1.magnitude"] + 1
    if change == "word":
        graph["nodes"][1]["exact"] = "yes"
    if change == "offset":
        held["1.offset"][:] = 0.1
        held["1.magnitude"] = held["1.offset"]
        block = build(graph, arrays(held)).blocks[1]
        with pytest.raises(InvalidInput, match="an offset is no normal number of its type"):
            check_thresholds(block)
        return
    with pytest.raises(InvalidInput, match="exact"):
        build(graph, arrays(held))


def test_what_is_zero_errs_nothing_and_what_is_huge_is_refused(tmp_path: Path) -> None:
    case = random_case(3, margin=True, single=True)
    size = case.toy.nodes[case.toy.cuts[1]]["size"]
    graph = build(graph_json(case.toy), arrays(model_arrays(case.toy)))
    block = graph.blocks[case.toy.cuts[1]]
    zeros = {s: np.zeros(graph.nodes[s].size) for s in block.sources}
    offsets = block.value(zeros)
    found = errors(block, zeros, np.abs(offsets))
    assert found.shape == (size,)
    assert np.all(found[offsets == 0] == 0)
    assert np.all(found[offsets != 0] > 0)
    with pytest.raises(InvalidInput, match="may overflow its type"):
        errors(block, {s: z + 1e38 for s, z in zeros.items()}, np.abs(offsets))


def in_float32(case: Case, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return all_in_float32(case.toy, x, rng)[-1]


def all_in_float32(toy: Toy, x: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Values by a float32 evaluation that adds up in random orders, the offset somewhere in between."""
    values: list[np.ndarray] = []
    for n in toy.nodes:
        xs = [values[i] for i in n["inputs"]]
        if n["kind"] == "input":
            values.append(x)
        elif n["kind"] == "linear":
            terms = [*(n["A"].astype(np.float32)[None] * xs[0][:, None, :]).transpose(2, 0, 1)]
            terms.insert(0, np.broadcast_to(n["b"].astype(np.float32), terms[0].shape))
            total = np.zeros_like(terms[0])
            for i in rng.permutation(len(terms)):
                total = total + terms[i]
            values.append(total)
        else:
            single = {k: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 else v for k, v in n.items()}
            values.append(np.asarray(value(single, xs), np.float32))
    return values


# corruption


def _keys(arrays: dict[str, Any], *endings: str) -> list[str]:
    return [k for k in arrays if any(f".{e}" in k for e in endings)]


def _bit(rng: np.random.Generator, v: np.ndarray) -> np.ndarray:
    flat = np.atleast_1d(v.copy())
    bits = flat.view(np.uint64).reshape(-1)
    bits[rng.integers(bits.size)] ^= np.uint64(1) << np.uint64(rng.integers(64))
    return flat.reshape(v.shape)


def corrupted(kind: str, rng: np.random.Generator, case: Case, folder: Path) -> Case:  # noqa: C901  (a table)
    """One change to a certificate's files, of which the case that is then claimed is returned."""
    image = "images/0.npz"

    def edit(*endings: str, to: Callable[[Any], Any]) -> Case:
        def apply(arrays: dict[str, Any]) -> None:
            names = _keys(arrays, *endings) or _keys(arrays, "radius")
            name = names[rng.integers(len(names))]
            arrays[name] = np.asarray(to(arrays[name]))

        change(folder, image, apply)
        return case

    def one(v: np.ndarray, to: Callable[[float], float]) -> np.ndarray:
        out = np.atleast_1d(v.copy())
        i = rng.integers(out.size)
        out[i] = to(out[i])
        return out.reshape(v.shape)

    match kind:
        case "bit":
            return edit("", to=lambda v: _bit(rng, v))
        case "centre":
            return edit("centre", to=lambda v: v + rng.normal(size=v.shape) * 0.01)
        case "box":
            return edit("lower", "upper", to=lambda v: one(v, lambda z: z + rng.normal() * 0.1))
        case "weights to 0":
            return edit("weights", to=lambda v: one(v, lambda z: 0.0))
        case "norm":
            return edit("norm", "joint", to=lambda v: v * 0.9)
        case "radius":
            return edit("radius", "after", to=lambda v: v * 0.9)
        case "all radii":
            change(folder, image, lambda a: a.update({k: a[k] * 0.99 for k in _keys(a, "radius", "after")}))
        case "slopes":
            return edit("slopes", to=lambda v: v + rng.normal(size=v.shape) * 0.1)
        case "lam":
            return edit("lam", "end", to=lambda v: v * 2)
        case "shares":
            return edit("shares", to=lambda v: v * np.array([0.5, *[1.0] * (v.size - 1)]))
        case "stop":
            return edit("stop", to=lambda v: np.int64(rng.choice(case.toy.cuts)))
        case "label":
            label = (case.label + 1) % case.toy.classes
            change(folder, "certificate.json", lambda c: c["images"][0].update(label=label))
            return Case(case.toy, case.x, label, case.eps, case.found)
        case "eps":
            eps = case.eps * 11 / 10
            change(folder, "certificate.json", lambda c: c.update(eps=str(eps)))
            return Case(case.toy, case.x, case.label, eps, case.found)
        case "image":
            x = case.x + rng.normal(size=case.x.size) * 1e-3
            change(folder, image, lambda a: a.update(x=x))
            return Case(case.toy, x, case.label, case.eps, case.found)
    return case


REJECTED = ("centre", "weights to 0", "norm", "radius", "all radii", "label", "eps", "image")
KINDS = (*REJECTED, "bit", "box", "slopes", "lam", "shares", "stop")


@pytest.mark.parametrize("tried", sizes(10, 20))
@pytest.mark.parametrize("kind", KINDS)
def test_no_corruption_is_accepted_with_a_false_claim(kind: str, tried: int, tmp_path: Path) -> None:
    refused = 0
    for seed in range(1000, 1000 + tried):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        case = random_case(seed, margin=True)
        written(case, folder)
        assert only(folder).accepted
        claimed = corrupted(kind, rng, case, folder)
        result = only(folder)
        refused += not result.accepted
        assert result.accepted or (result.reason and "\n" not in result.reason)
        if result.accepted:
            found = worst_margin(claimed.toy, claimed.x, claimed.label, float(claimed.eps), rng, 400)
            assert found >= result.margin
    if kind in REJECTED:
        # what is left is harmless: a weight of 0 set to 0, a norm or radius that is not the one used
        assert refused >= 0.6 * tried


RULES = {
    "lower": "rule 2",
    "upper": "rule 2",
    "weights": "rule 3",
    "norm": "rule 4",
    "radius": "rule 5",
    "after": "rule 6",
}


@pytest.mark.parametrize(("array", "rule"), RULES.items())
def test_every_bound_is_checked_by_its_rule(array: str, rule: str, tmp_path: Path) -> None:
    """Bounds of the first block, a thousandth too tight."""
    named = 0
    for seed in range(12):
        case = random_case(seed, margin=True)
        folder = written(case, tmp_path / str(seed))

        def tighten(a: dict[str, Any], case: Case = case) -> None:
            k = case.toy.cuts[1]
            for name in _keys({n: 0 for n in a if n.startswith(f"{k}.")}, array):
                middle = a[f"{k}.centre"] if array in ("lower", "upper") else 0.0
                a[name] = np.asarray(middle + (a[name] - middle) * 0.999)

        change(folder, "images/0.npz", tighten)
        named += rule in only(folder).reason
    assert named >= 8  # elsewhere the bound is 0, or another one is the one that is used


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_is_rejected_by_the_hash(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    folder = written(random_case(seed, margin=True), tmp_path, "float32")
    for name in ("graph.json", "model.npz", "images/0.npz"):
        content = bytearray((folder / name).read_bytes())
        kept = bytes(content)
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(content)
        result = only(folder)
        assert not result.accepted
        assert result.reason.endswith(f"{name}: its SHA-256 is not the one in certificate.json")
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize("seed", range(6))
def test_a_model_with_other_weights_is_rejected(seed: int, tmp_path: Path) -> None:
    folder = written(random_case(seed, margin=True), tmp_path)

    def heavier(a: dict[str, Any]) -> None:
        a.update({k: a[k] * 1.01 for k in a if k.endswith(".data") and not np.all(abs(a[k]) == 1)})

    change(folder, "model.npz", heavier)
    assert not only(folder).accepted


def test_claims_that_are_none_are_rejected(tmp_path: Path) -> None:
    case = random_case(2, margin=True)
    folder = written(case, tmp_path)
    change(folder, "certificate.json", lambda c: c["images"].append(dict(c["images"][0])))
    first, second = check(folder)
    assert first.accepted
    assert second.reason == "image 0: certificate.json lists it twice"
    change(folder, "certificate.json", lambda c: c["images"].pop())
    change(folder, "certificate.json", lambda c: c["images"][0].update(label=case.toy.classes))
    assert "there are" in only(folder).reason
    change(folder, "certificate.json", lambda c: c["images"][0].update(label=case.label))
    change(folder, "images/0.npz", lambda a: a.update(x=a["x"] * np.nan))
    assert only(folder).reason == "image 0: images/0.npz: x: NaN or inf"


def test_classes_are_those_of_the_last_node(tmp_path: Path) -> None:
    case = random_case(4, margin=True)
    folder = written(case, tmp_path)
    for wrong in (case.toy.nodes[-1]["size"] - 2, case.toy.nodes[-1]["size"] + 1, True, "3", None, 2.0):
        change(folder, "graph.json", lambda g, wrong=wrong: g.update(classes=wrong))
        with pytest.raises(InvalidInput, match="classes"):
            only(folder)


def test_every_logit_but_the_label_is_claimed(tmp_path: Path) -> None:
    """One logit more than classes: a zero that stands for a final ReLU."""
    case = random_case(4, margin=True)
    folder = written(case, tmp_path)
    extra = case.toy.nodes[-1]["size"] - 1
    change(folder, "graph.json", lambda g: g.update(classes=extra))
    if case.label < extra:
        assert only(folder).accepted
        change(folder, "images/0.npz", lambda a: a.pop(f"{extra}.stop"))
        assert only(folder).reason == f"image 0: images/0.npz: {extra}.stop is missing"


@pytest.mark.parametrize(
    ("text", "exact"),
    [("36/255", Fraction(36, 255)), ("0.1", Fraction(1, 10)), ("1E-3", Fraction(1, 1000)), ("3/010", Fraction(3, 10))],
)
def test_eps_is_exact_and_rounded_up(text: str, exact: Fraction, tmp_path: Path) -> None:
    folder = written(random_case(2, margin=True), tmp_path)
    change(folder, "certificate.json", lambda c: c.update(eps=text))
    eps = open_certificate(folder).eps
    assert exact <= Fraction(eps) < exact + Fraction(1, 2**52)


@pytest.mark.parametrize("eps", ["-1/4", "nan", "inf", "1/0", "1e999999999", "0x10", "", "1" * 5000, " 1", "1_0"])
def test_eps_is_a_plain_number(eps: str, tmp_path: Path) -> None:
    folder = written(random_case(2, margin=True), tmp_path)
    change(folder, "certificate.json", lambda c: c.update(eps=eps))
    with pytest.raises(InvalidInput, match="eps"):
        only(folder)
