"""Small random networks in plain dense numpy, and their files, with no code of the checker's."""

# ruff: noqa: E731

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass
class Toy:
    """A network as a list of nodes; each has kind, inputs, size and its dense arrays."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    extra: set[int] = field(default_factory=set)
    """Cuts that nothing asks for."""
    classes: int = 3

    def add(self, kind: str, inputs: list[int], size: int, **arrays: Any) -> int:
        self.nodes.append({"kind": kind, "inputs": inputs, "size": size, **arrays})
        return len(self.nodes) - 1

    @property
    def cuts(self) -> list[int]:
        found = {0, len(self.nodes) - 1} | self.extra
        for k, n in enumerate(self.nodes):
            if n["kind"] in ("clamp", "leaky", "maxmin"):
                found.add(k)
        return sorted(found)

    def evaluate(self, x: Array) -> Array:
        """Logits of points `[n, size]`."""
        values: list[Array] = []
        for n in self.nodes:
            values.append(value(n, [values[i] for i in n["inputs"]]) if n["kind"] != "input" else x)
        return values[-1]


def value(n: dict[str, Any], xs: list[Array]) -> Array:
    """A node's value, of points `[..., size]`."""
    kind = n["kind"]
    if kind == "linear":
        return xs[0] @ n["A"].T + n["b"]
    if kind == "add":
        return sum(xs[1:], xs[0])
    if kind == "take":
        return np.where(n["places"][0] >= 0, xs[0][..., n["places"][0]], 0 * xs[0][..., :1])
    if kind == "concat":
        out = np.empty((*xs[0].shape[:-1], n["size"]))
        for places, x in zip(n["places"], xs, strict=True):
            out[..., places] = x
        return out
    return phi(n, xs[0])


def phi(n: dict[str, Any], z: Array) -> Array:
    if n["kind"] == "clamp":
        return np.minimum(np.maximum(z, n["low"]), n["high"])
    if n["kind"] == "leaky":
        return np.where(z >= 0, z, n["below"] * z)
    a, b = z[..., n["first"]], z[..., n["second"]]
    out = np.empty_like(z)
    out[..., n["first"]] = np.minimum(np.maximum(a, b), n["high"])
    out[..., n["second"]] = np.maximum(np.minimum(a, b), n["low"])
    return out


# networks


def random_toy(rng: np.random.Generator) -> Toy:
    toy = Toy()
    at = toy.add("input", [], int(rng.integers(3, 8)))
    for _ in range(int(rng.integers(1, 4))):
        at = _layer(rng, toy, at)
        if rng.random() < 0.3:
            other = _activation(rng, toy, _linear(rng, toy, toy.nodes[at]["inputs"][0], 4))
            sizes = [toy.nodes[i]["size"] for i in (at, other)]
            places = rng.permutation(sum(sizes))
            at = toy.add("concat", [at, other], sum(sizes), places=[places[: sizes[0]], places[sizes[0] :]])
            if rng.random() < 0.7:
                toy.extra.add(at)
    toy.classes = int(rng.integers(2, 5))
    _linear(rng, toy, at, toy.classes)
    if rng.random() < 0.2:
        toy.classes -= toy.classes > 2
    return toy


def _layer(rng: np.random.Generator, toy: Toy, at: int) -> int:
    size, start = 2 * int(rng.integers(2, 5)), at
    if rng.random() < 0.2:
        at = toy.add("take", [at], size, places=[rng.integers(-1, toy.nodes[at]["size"], size)])
    at = _linear(rng, toy, at, size)
    if rng.random() < 0.3:
        at = _linear(rng, toy, at, size) if rng.random() < 0.5 else _exact(rng, toy, at)
    if rng.random() < 0.4:
        skip = start if toy.nodes[start]["size"] == size else _linear(rng, toy, start, size)
        others = [k for k in toy.cuts if toy.nodes[k]["size"] == size and k < at and k > 0]
        skip = int(rng.choice(others)) if others and rng.random() < 0.5 else skip
        at = toy.add("add", [at, skip], size)
        if rng.random() < 0.3:
            toy.extra.add(at)
    return _activation(rng, toy, at)


def _linear(rng: np.random.Generator, toy: Toy, at: int, size: int) -> int:
    inputs = toy.nodes[at]["size"]
    A = rng.normal(size=(size, inputs)) / np.sqrt(inputs)
    if rng.random() < 0.4:
        A *= np.abs(np.arange(size)[:, None] * inputs / size - np.arange(inputs)) < 2
    b = rng.normal(size=size) * 0.3
    return toy.add("linear", [at], size, A=A.astype(np.float32).astype(float), b=b.astype(np.float32).astype(float))


def _exact(rng: np.random.Generator, toy: Toy, at: int) -> int:
    """Entries with another sign, shifted, and differences of neighbours: no product rounds."""
    size = toy.nodes[at]["size"]
    A = np.diag(rng.choice([-1.0, 1.0], size))
    if rng.random() < 0.3:
        A[1:, :-1] -= np.eye(size - 1)
    b = (rng.normal(size=size) * rng.choice([0, 1], size)).astype(np.float32).astype(float)
    return toy.add("linear", [at], size, A=A, b=b, exact=True)


def _activation(rng: np.random.Generator, toy: Toy, at: int) -> int:
    size, kind = toy.nodes[at]["size"], rng.choice(["relu", "theta", "clamp", "leaky", "maxmin", "clipped"])
    single: Callable[[Array], Array] = lambda v: v.astype(np.float32).astype(float)
    never = np.full(size, np.inf)
    if kind == "relu":
        return toy.add("clamp", [at], size, low=np.zeros(size), high=never)
    if kind == "theta":
        return toy.add("clamp", [at], size, low=np.zeros(size), high=single(rng.uniform(0, 1, size)))
    if kind == "clamp":
        low = single(rng.normal(size=size) * 0.5)
        high = np.where(rng.random(size) < 0.2, np.inf, single(low + rng.choice([0, 0.5, 1], size)))
        return toy.add("clamp", [at], size, low=np.where(rng.random(size) < 0.2, -np.inf, low), high=high)
    if kind == "leaky":
        return toy.add("leaky", [at], size, below=single(rng.choice([-1, 0, 0.1, -0.3, 1, 1.5], size)))
    pairs, half = rng.permutation(size), size // 2
    low, high = -never[:half], never[:half]
    if kind == "clipped":
        low = np.where(rng.random(half) < 0.3, low, single(rng.normal(size=half) * 0.4))
        high = np.where(rng.random(half) < 0.3, high, single(rng.normal(size=half) * 0.4))
    return toy.add("maxmin", [at], size, first=pairs[:half], second=pairs[half:], low=low, high=high)


# files


def model_arrays(toy: Toy) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for k, n in enumerate(toy.nodes):
        if n["kind"] == "linear":
            held = n["A"] != 0
            out |= {f"{k}.data": n["A"][held], f"{k}.indices": np.nonzero(held)[1].astype(np.int64)}
            out |= {f"{k}.indptr": np.concatenate(([0], np.cumsum(held.sum(1)))).astype(np.int64)}
            out |= {f"{k}.offset": n["b"], f"{k}.magnitude": np.abs(n["b"])}
        for name in ("low", "high", "below"):
            if name in n:
                out[f"{k}.{name}"] = n[name]
        for name in ("first", "second"):
            if name in n:
                out[f"{k}.{name}"] = n[name].astype(np.int64)
        for i, places in enumerate(n.get("places", [])):
            out[f"{k}.places.{i}" if n["kind"] == "concat" else f"{k}.places"] = places.astype(np.int64)
    return out


def graph_json(toy: Toy) -> dict[str, Any]:
    nodes = []
    for n in toy.nodes:
        entry = {"kind": n["kind"], "size": n["size"]} | ({"exact": True} if n.get("exact") else {})
        if n["kind"] in ("add", "concat"):
            entry["inputs"] = n["inputs"]
        elif n["kind"] != "input":
            entry["input"] = n["inputs"][0]
        nodes.append(entry)
    return {"format": 1, "nodes": nodes, "cuts": toy.cuts, "classes": toy.classes}
