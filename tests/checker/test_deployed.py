"""Rule 10: what float32 evaluations err is bounded, and by not much more than they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker.deployed import check_thresholds, errors
from llcert.checker.files import Arrays, InvalidCertificate
from llcert.checker.forward import propagate
from llcert.checker.graph import build

from .cases import Case, change, only, random_case, written
from .generator import evidence
from .networks import Toy, graph_json, model_arrays, random_toy, value
from .singles import all_in_float32


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
        with pytest.raises(InvalidCertificate, match="rule"):
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
        found, allowed = abs(values[node] - exact), known.pre_activation[k].roundoff.deployed
        assert np.all(found <= allowed)
        assert np.all(allowed <= 300 * found.max())
        if block.activation is not None:
            own = abs(values[k] - block_value(toy, k, values[node].astype(float)))
            assert np.all(own <= known.pre_activation[k].activation_error)
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
        with pytest.raises(InvalidCertificate, match="an offset is no normal number of its type"):
            check_thresholds(block)
        return
    with pytest.raises(InvalidCertificate, match="exact"):
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
    with pytest.raises(InvalidCertificate, match="may overflow its type"):
        errors(block, {s: z + 1e38 for s, z in zeros.items()}, np.abs(offsets))


def in_float32(case: Case, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return all_in_float32(case.toy, x, rng)[-1]
