"""Evidence of format 3 in plain dense numpy: boxes by backward rows, and parts of the ball."""

# ruff: noqa: E741

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker.files import Arrays, InvalidCertificate
from llcert.checker.forward import propagate
from llcert.checker.graph import build
from llcert.checker.known import Known

from .cases import Case, write
from .generator import Block, Ends, Evidence, affine, chord, down_to, evidence, rows
from .networks import Array, Toy, graph_json, model_arrays, random_toy, value
from .singles import all_in_float32

Held = dict[str, Any]
"""The arrays of an image by name."""

SLACK = 1e-9


def values(toy: Toy, points: Array) -> list[Array]:
    """Of every node, at some points."""
    found: list[Array] = []
    for n in toy.nodes:
        found.append(points if n["kind"] == "input" else value(n, [found[i] for i in n["inputs"]]))
    return found


# boxes


@dataclass
class BackwardRows:
    """Narrows the boxes of a network by rows, and keeps what they were. first: what they pass; else what is known so
    far. stops: whether some of them stop before the input."""

    toy: Toy
    rng: np.random.Generator
    first: Evidence | None = None
    stops: bool = True
    arrays: dict[str, Any] = field(default_factory=dict)

    def __call__(self, block: Block, so_far: Evidence) -> tuple[Array, Array]:
        k, size, rng = block.cut, self.toy.nodes[block.pre]["size"], self.rng
        bounds = np.full((2, size), -np.inf)
        if block.sources == [0] or rng.random() < 0.2:
            return bounds[0], -bounds[1]
        entries = np.flatnonzero(rng.random(size) < rng.choice([0.3, 1.0]))
        entries = entries if entries.size else np.array([size - 1])
        stop = int(rng.choice([c for c in self.toy.cuts if c < k])) if self.stops and rng.random() < 0.3 else 0
        self.arrays[f"{k}.rows"] = entries.astype(np.int64)
        if stop or rng.random() < 0.5:
            self.arrays[f"{k}.rows.stop"] = np.int64(stop)
        for side, name in enumerate(("lower", "upper")):
            chosen: dict[str, list[float]] = {}
            for i in entries:
                found, out = self._row(block, self.first or so_far, np.eye(size)[i] * (1 - 2 * side), stop)
                bounds[side, i] = found - SLACK * (1 + abs(found))
                for key, lam in out.items():
                    chosen.setdefault(f"{key}.{name}", []).append(float(lam))
            self.arrays |= {key: np.array(lams) for key, lams in chosen.items()}
        return bounds[0], -bounds[1]

    def _row(self, block: Block, known: Evidence, row: Array, stop: int) -> tuple[float, dict[str, Any]]:
        left: dict[int, Array] = {}
        total = affine(self.toy, known, block, row, left)
        slopes = lambda k, i, a: np.where(a >= 0, *self._slopes(known, k, i))  # noqa: E731
        more, out = down_to(self.toy, known, left, stop, f"{block.cut}.rows", slopes=slopes)
        return total + more, {key: v for key, v in out.items() if ".slopes." not in key}

    def _slopes(self, known: Evidence, k: int, step: int) -> tuple[Array, Array]:
        """Of a step, for rows of either sign."""
        plus, minus = f"{k}.slopes.{step}.plus", f"{k}.slopes.{step}.minus"
        if plus not in self.arrays:
            n, l, u = self.toy.nodes[k], known.arrays[f"{k}.lower"], known.arrays[f"{k}.upper"]
            if n["kind"] == "maxmin":
                f, s = n["first"], n["second"]
                kink = {"kind": "leaky", "below": -np.ones(f.size)}
                best = chord(kink, l[f] - u[s], u[f] - l[s]) if step == 0 else np.ones(l.size)
            else:
                best = chord(n, l, u)
            flat = np.where(self.rng.random(best.size) < 0.5, best, np.round(best))
            self.arrays |= {plus: flat, minus: best}
        return self.arrays[plus], self.arrays[minus]


def boxed(
    toy: Toy, x: Array, eps: float, rng: np.random.Generator, *, single: bool = False, passes: int = 2
) -> Evidence:
    """passes: 2 where rows pass the regions of an earlier pass, 1 where they pass those of the same."""
    first = evidence(toy, x, eps, rng, single=single) if passes == 2 else None
    narrow = BackwardRows(toy, rng, first)
    found = evidence(toy, x, eps, rng, single=single, narrow=narrow)
    found.arrays |= narrow.arrays
    if first is not None:
        held = {n: v for n, v in first.arrays.items() if n != "x" and not n.endswith(".centre")}
        found.arrays |= {f"first.{n}": v for n, v in held.items()}
    return found


# parts


@dataclass
class Parts:
    """A tree of parts, in preorder. splits: cut, step, entry, number. ends: of every part."""

    tree: list[int] = field(default_factory=list)
    splits: list[tuple[int, int, int, float]] = field(default_factory=list)
    ends: list[Ends] = field(default_factory=list)


def step_sizes(toy: Toy) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = {}
    for k, n in enumerate(toy.nodes):
        if n["kind"] in ("clamp", "leaky"):
            found[k, 0] = n["size"]
        if n["kind"] == "maxmin":
            found[k, 0] = n["size"] // 2
            if np.isfinite(n["low"]).any() or np.isfinite(n["high"]).any():
                found[k, 1] = n["size"]
    return found


def halves(toy: Toy, ends: Ends, split: tuple[int, int, int, float]) -> tuple[Ends, Ends]:
    k, step, entry, at = split
    size = step_sizes(toy)[k, step]
    low, high = ends.get((k, step), (np.full(size, -np.inf), np.full(size, np.inf)))
    below, above = high.copy(), low.copy()
    below[entry], above[entry] = min(high[entry], at), max(low[entry], at)
    return {**ends, (k, step): (low, below)}, {**ends, (k, step): (above, high)}


def random_split(toy: Toy, found: Evidence, rng: np.random.Generator) -> tuple[int, int, int, float]:
    """At a knot or anywhere, at times where nothing is left on one side."""
    sizes = step_sizes(toy)
    k, step = list(sizes)[rng.integers(len(sizes))]
    entry, n = int(rng.integers(sizes[k, step])), toy.nodes[k]
    if rng.random() < 0.2:
        return k, step, entry, float(rng.normal())
    knots = [0.0]
    if n["kind"] == "clamp":
        knots = [float(t[entry]) for t in (n["low"], n["high"]) if np.isfinite(t[entry])] or knots
    if step == 1:
        pair = np.concatenate((n["high"], n["low"]))[np.argsort(np.concatenate((n["first"], n["second"])))]
        knots = [float(pair[entry])] if np.isfinite(pair[entry]) else knots
    return k, step, entry, knots[rng.integers(len(knots))]


def grown(
    toy: Toy, found: Evidence, bound: Callable[[Ends], float], rng: np.random.Generator, depth: int, tries: int = 4
) -> Parts:
    """Splits each part at the best of a few splits, down to a depth."""
    parts = Parts()

    def grow(ends: Ends, depth: int) -> None:
        if depth == 0 or rng.random() < 0.1:
            parts.tree.append(-1)
            parts.ends.append(ends)
            return
        candidates = [random_split(toy, found, rng) for _ in range(tries)]
        split = max(candidates, key=lambda s: min(bound(e) for e in halves(toy, ends, s)))
        parts.tree.append(split[0])
        parts.splits.append(split)
        for side in halves(toy, ends, split):
            grow(side, depth - 1)

    grow({}, depth)
    return parts


def parted(
    toy: Toy, found: Evidence, label: int, other: int, rng: np.random.Generator, *, depth: int = 2, stop: int = 0
) -> tuple[float, dict[str, Any]]:
    """The worst margin of some parts of the ball, and the arrays of their rows."""
    parts = grown(toy, found, lambda ends: rows(toy, found, label, other, stop, ends)[0], rng, depth)
    margins, each = zip(*(rows(toy, found, label, other, stop, ends) for ends in parts.ends), strict=True)
    out: dict[str, Any] = {n: np.concatenate([np.atleast_1d(e[n]) for e in each]) for n in each[0]}
    out[f"{other}.stop"] = np.int64(stop)
    if parts.splits:
        _, steps, entries, at = zip(*parts.splits, strict=True)
        out[f"{other}.tree"] = np.array(parts.tree, np.int64)
        out |= {f"{other}.tree.step": np.array(steps), f"{other}.tree.entry": np.array(entries)}
        out[f"{other}.tree.at"] = np.array(at, float)
    return min(margins), out


# cases


def refined(
    toy: Toy, x: Array, label: int, eps: float, rng: np.random.Generator, *, single: bool, depth: int
) -> Evidence:
    """Boxes by rows in one pass or two, and every class by parts."""
    found = boxed(toy, x, eps, rng, single=single, passes=int(rng.integers(1, 3)))
    for other in range(toy.nodes[-1]["size"]):
        if other == label:
            continue
        if depth and rng.random() < 0.8:
            stop = 0 if rng.random() < 0.8 else int(rng.choice(toy.cuts))
            margin, arrays = parted(toy, found, label, other, rng, depth=depth, stop=stop)
        else:
            margin, arrays = max((rows(toy, found, label, other, s) for s in toy.cuts), key=lambda t: t[0])
        found.arrays |= arrays
        found.margins[other] = margin
    return found


@functools.cache
def refined_case(seed: int, *, single: bool = False, depth: int = 2) -> Case:
    """At the largest radius of a few with a positive margin."""
    rng = np.random.default_rng(seed)
    while True:
        toy = random_toy(rng)
        x = rng.normal(size=toy.nodes[0]["size"])
        label = int(np.argmax(toy.evaluate(x[None])[0]))
        if label >= toy.classes or len(step_sizes(toy)) < 2 or len(toy.nodes) > 14:
            continue
        for eps in (Fraction(k, 64) for k in (20, 8, 3, 1)):
            case = Case(toy, x, label, eps, refined(toy, x, label, float(eps), rng, single=single, depth=depth))
            if case.proved:
                return case


def case_of(seed: int) -> Case:
    """Every third of deployed evaluations."""
    return refined_case(seed, single=seed % 3 == 0)


def written_refined(case: Case, folder: Path, *, single: bool = False) -> Path:
    images = [(case.label, case.found)]
    return write(folder, case.toy, case.eps, images, "float32" if single else "real", version=3)


def known(case: Case, arrays: Held, *, single: bool = False) -> Known:
    """What the checker proves of every value. Raises InvalidCertificate."""
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
    for k, before in found.pre_activation.items():
        n = case.toy.nodes[k]
        z, zone = every[n["inputs"][0] if n["kind"] in ("clamp", "leaky", "maxmin") else k].astype(float), before.zone
        right &= bool(np.all((zone.lower <= z) & (z <= zone.upper)))
        right &= bool(np.all(np.linalg.norm((z - zone.centre) * zone.weights, axis=1) <= zone.radius))
        right &= bool(np.all((found.cuts[k].lower <= every[k]) & (every[k] <= found.cuts[k].upper)))
    return right


def changed(case: Case, edit: Callable[[Held], object]) -> Held:
    held = {n: np.copy(v) for n, v in case.found.arrays.items()}
    edit(held)
    return held


def reason(case: Case, edit: Callable[[Held], object]) -> str:
    with pytest.raises(InvalidCertificate) as failure:
        known(case, changed(case, edit))
    return str(failure.value)


def with_rows(*names: str) -> tuple[Case, dict[str, int]]:
    """A case whose evidence has arrays that end so, and the first block of each."""
    for seed in range(60):
        case = case_of(seed)
        held = sorted(case.found.arrays, key=lambda n: [int(p) if p.isdecimal() else 0 for p in n.split(".")])
        found = {name: int(n.split(".")[n.startswith("first.")]) for name in names for n in held if n.endswith(name)}
        if len(found) == len(names):
            return case, found
    raise AssertionError(names)
