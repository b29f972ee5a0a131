"""Evidence for small networks in plain dense numpy, with no code of the checker's."""

# ruff: noqa: E731, E741

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from .networks import Array, Toy, phi, value

SLACK = 1 + 1e-9


def widened(x: float | Array) -> Any:
    """A little larger, for numbers >= 0; 0 stays 0."""
    return x * SLACK + (np.asarray(x) > 0) * 1e-12


# regions


@dataclass
class Block:
    cut: int
    pre: int
    body: list[int]
    sources: list[int]
    maps: dict[int, Array]


def blocks(toy: Toy) -> list[Block]:
    cuts, found = set(toy.cuts), []
    for k in sorted(cuts - {0}):
        n = toy.nodes[k]
        pre = n["inputs"][0] if n["kind"] in ("clamp", "leaky", "maxmin") else k
        body, sources, todo = set(), set(), [pre]
        while todo:
            i = todo.pop()
            if i in cuts and i != k:
                sources.add(i)
            else:
                body.add(i)
                todo += toy.nodes[i]["inputs"]
        block = Block(k, pre, sorted(body), sorted(sources), {})
        for s in block.sources:
            wide = toy.nodes[s]["size"]
            start = {i: np.eye(wide) if i == s else np.zeros((wide, toy.nodes[i]["size"])) for i in block.sources}
            block.maps[s] = through(toy, block, start, lambda n, x: x[0] @ n["A"].T).T
        found.append(block)
    return found


def through(toy: Toy, block: Block, start: dict[int, Array], linear: Callable[[Any, Any], Array]) -> Array:
    values = dict(start)
    for i in block.body:
        n, xs = toy.nodes[i], [values[j] for j in toy.nodes[i]["inputs"]]
        values[i] = linear(n, xs) if n["kind"] == "linear" else value(n, xs)
    return values[block.pre]


def pieces(n: dict[str, Any], size: int) -> list[tuple[Any, Any, Any, Any]]:
    if n["kind"] == "clamp":
        low, high = n["low"], n["high"]
        flat = [
            (-np.inf, low, 0, np.where(np.isfinite(low), low, 0)),
            (high, np.inf, 0, np.where(np.isfinite(high), high, 0)),
        ]
        return [*flat, (low, high, 1, 0)]
    return [(-np.inf, 0, n["below"], 0), (0, np.inf, 1, 0)]


def chords(n: dict[str, Any], c: Array, l: Array, u: Array) -> Array:
    if n["kind"] == "maxmin":
        return maxmin_weights(n, l, u)
    out = np.zeros_like(c)
    for p, q, a, _ in pieces(n, c.size):
        p, q = np.maximum(l, p), np.minimum(u, q)
        inside = (p < q) & (p <= c) & (c <= q)
        out = np.where(inside, np.maximum(out, np.abs(a)), out)
        for z in (p, q):
            with np.errstate(all="ignore"):
                t = np.abs(phi(n, z) - phi(n, c)) / np.abs(z - c)
            out = np.where((p < q) & (np.abs(z - c) > 1e-12), np.maximum(out, np.nan_to_num(t)), out)
    return widened(out)


def maxmin_weights(n: dict[str, Any], l: Array, u: Array) -> Array:
    v = ~constant(n, l, u)
    f, s = n["first"], n["second"]
    out = np.empty(l.size)
    for i in range(f.size):
        a, b = f[i], s[i]
        if l[a] >= u[b]:
            out[a], out[b] = v[a], v[b]
        elif l[b] >= u[a]:
            out[a], out[b] = v[b], v[a]
        else:
            out[a] = out[b] = v[a] or v[b]
    return out


def constant(n: dict[str, Any], l: Array, u: Array) -> Array:
    if n["kind"] == "clamp":
        return (u <= n["low"]) | (l >= n["high"]) | (n["low"] == n["high"])
    if n["kind"] == "leaky":
        return (n["below"] == 0) & (u <= 0)
    out = np.zeros(l.size, bool)
    out[n["first"]] = np.maximum(l[n["first"]], l[n["second"]]) >= n["high"]
    out[n["second"]] = np.minimum(u[n["first"]], u[n["second"]]) <= n["low"]
    return out


def image_box(n: dict[str, Any], l: Array, u: Array) -> tuple[Array, Array]:
    a, b = phi(n, l), phi(n, u)
    if n["kind"] == "leaky":
        knot = np.where((l <= 0) & (u >= 0), 0.0, a)
        return np.minimum(np.minimum(a, b), knot), np.maximum(np.maximum(a, b), knot)
    return a, b


@dataclass
class Evidence:
    """Of one image: what is written, and what the row needs."""

    arrays: dict[str, Any]
    boxes: dict[int, tuple[Array, Array, Array, float]]
    errors: dict[int, tuple[Array, Array]]
    margins: dict[int, float] = field(default_factory=dict)


def single_errors(toy: Toy, block: Block, part: dict[int, Any], largest: Array) -> Array:
    """What one float32 evaluation of a block errs before the activation, a little more than rule 10 asks."""
    u, values = 2.0**-24, {}
    for s, p in part.items():
        size = np.maximum(np.maximum(abs(p[1]), abs(p[2])), abs(p[0]))
        values[s] = (size + (size > 0) * 2.0**-99, 0 * size)
    for i in block.body:
        n, xs = toy.nodes[i], [values[j] for j in toy.nodes[i]["inputs"]]
        if n["kind"] in ("concat", "take"):
            values[i] = tuple(value(n, [x[j] for x in xs]) for j in (0, 1))
            continue
        held = [(x[0] > 0).astype(float) for x in xs]
        if n["kind"] == "linear":
            A = abs(n["A"])
            terms, size, carried, once = (A > 0) @ held[0], A @ xs[0][0] + abs(n["b"]), A @ xs[0][1], 6
            if n.get("exact"):
                terms, once = terms + (n["b"] != 0) - 1, 0
        else:
            terms, once = sum(held) - 1, 0
            size, carried = sum(x[0] for x in xs), sum(x[1] for x in xs)
        partial = np.minimum(size, (size + largest + carried) / 2) if i == block.pre else size
        own = u * (once * size + np.maximum(terms, 0) * partial) * (1 + 4 * u * (terms.max() + 9))
        error = np.where(size > 0, (own + carried) * SLACK + 1e-29, 0)
        values[i] = (size + error, error)
    return values[block.pre][1] + (values[block.pre][0] > 0) * 1e-36


Narrow = Callable[[Block, Evidence], tuple[Array, Array]]
"""Lower and upper bounds of a block's value, given the evidence of all blocks before it."""


def evidence(
    toy: Toy,
    x: Array,
    eps: float,
    rng: np.random.Generator,
    *,
    single: bool = False,
    narrow: Narrow | None = None,
) -> Evidence:
    """single: of float32 evaluations too. narrow: what cuts boxes; its arrays are kept."""
    out: dict[str, Any] = {"x": x}
    errors: dict[int, tuple[Array, Array]] = {}
    moved = (2.0**-24 * (abs(x) + eps) + 2.0**-126) * SLACK if single else 0 * x
    reach = eps + float(np.linalg.norm(moved)) * SLACK
    known = {0: (x, x - eps - moved, x + eps + moved, reach, np.ones(x.size, bool))}
    for block in blocks(toy):
        k, n = block.cut, toy.nodes[block.cut]
        part = {s: known[s] for s in block.sources}
        full = lambda n, xs: xs[0] @ n["A"].T + n["b"]
        c = through(toy, block, {s: p[0] for s, p in part.items()}, full)
        m = through(toy, block, {s: (p[1] + p[2]) / 2 for s, p in part.items()}, full)
        w = through(toy, block, {s: (p[2] - p[1]) / 2 for s, p in part.items()}, lambda n, xs: xs[0] @ np.abs(n["A"]).T)
        reach = sum(np.sqrt((block.maps[s][:, p[4]] ** 2).sum(1)) * p[3] for s, p in part.items())
        pad = 1e-11 if any(toy.nodes[i]["kind"] not in ("concat", "take") for i in block.body) else 0.0
        l = np.maximum(m - w, c - reach) - pad
        u = np.minimum(m + w, c + reach) + pad
        if not pad:
            l = np.minimum(l, c)
            u = np.maximum(u, c)
            l, u = l - 1e-11, u + 1e-11
        lost = single_errors(toy, block, part, np.maximum(abs(l), abs(u))) if single else 0 * c
        l, u = l - lost, u + lost
        errors[k] = (lost, 0 * c)
        if narrow is not None:
            low, high = narrow(block, Evidence(out, known, errors))
            l, u = np.minimum(np.maximum(l, low), c), np.maximum(np.minimum(u, high), c)
        active = n["kind"] in ("clamp", "leaky", "maxmin")
        weights = chords(n, c, l, u) if active else np.ones(c.size)
        radius = radius_of(block, part, weights, out, rng, concat=apart(block))
        radius += float(widened(np.linalg.norm(weights * lost)))
        post, (pl, pu) = (phi(n, c), image_box(n, l, u)) if active else (c, (l, u))
        after_lost = np.zeros_like(c)
        if single and n["kind"] == "leaky":
            after_lost = np.where(n["below"] == 0, 0, 2.0**-23 * abs(n["below"]) * np.maximum(-l, 0) * SLACK + 1e-36)
            pl, pu = pl - after_lost, pu + after_lost
        errors[k] = (lost, after_lost)
        corner = float(np.linalg.norm(np.maximum(np.maximum(pu - post, post - pl), 0)))
        after = min(widened(radius + float(np.linalg.norm(after_lost))), widened(corner))
        out |= {f"{k}.centre": c, f"{k}.lower": l, f"{k}.upper": u, f"{k}.weights": weights}
        out |= {f"{k}.radius": radius, f"{k}.after": after}
        varies = ~constant(n, l, u) if active else np.ones(c.size, bool)
        known[k] = (post, np.maximum(pl, post - after), np.minimum(pu, post + after), after, varies)
    return Evidence(out, known, errors)


def apart(block: Block) -> bool:
    """Whether no row has entries in the maps of two sources."""
    return bool(np.all(sum((A != 0).any(1).astype(int) for A in block.maps.values()) <= 1))


def radius_of(
    block: Block, part: dict[int, Any], weights: Array, out: dict[str, Any], rng: np.random.Generator, *, concat: bool
) -> float:
    k, norms = block.cut, []
    for s, p in part.items():
        found = float(np.linalg.norm(weights[:, None] * block.maps[s] * p[4], 2))
        out[f"{k}.norm.{s}"] = widened(found)
        norms.append(widened(found) * p[3])
    radius = float(np.linalg.norm(norms) if concat else np.sum(norms))
    if len(part) > 1 and rng.random() < 0.5:
        shares = rng.uniform(0.5, 2, len(part))
        joint = np.hstack(
            [h * weights[:, None] * block.maps[s] * p[4] for h, (s, p) in zip(shares, part.items(), strict=True)]
        )
        out |= {f"{k}.joint": widened(float(np.linalg.norm(joint, 2))), f"{k}.shares": shares}
        moved = np.array([p[3] for p in part.values()]) / shares
        radius = min(radius, float(out[f"{k}.joint"] * np.linalg.norm(moved)))
    return float(widened(radius) + 1e-11)


def least(ps: list[Any], a: Array, g: Array, lam: float, zone: tuple[Array, Array, Array, Array, float]) -> float:
    """The sum over entries of the least value, less `lam r^2 / 2`: by trying every point where it can be."""
    c, l, u, w, r = zone
    best = np.full_like(c, np.inf)
    curve = lam * w * w
    for p, q, slope, height in ps:
        p, q = np.maximum(l, p), np.minimum(u, q)
        with np.errstate(all="ignore"):
            vertex = np.where(curve > 0, c - (a * slope - g) / curve, p)
        for z in (p, q, np.clip(vertex, p, q)):
            z = np.where(p <= q, z, c)
            f = a * (slope * z + height) - g * z + curve / 2 * (z - c) ** 2
            best = np.where(p <= q, np.minimum(best, f), best)
    return float(best.sum() - lam * r * r / 2)


def best_lam(f: Callable[[float], float]) -> float:
    return max([0.0, *(10.0**e for e in np.arange(-4, 4, 0.25))], key=f)


Ends = Mapping[tuple[int, int], tuple[Array, Array]]
"""Boxes that cut those of steps, by cut and step."""


def rows(
    toy: Toy, found: Evidence, label: int, other: int, stop: int, ends: Ends = MappingProxyType({})
) -> tuple[float, dict[str, Any]]:
    """The margin at a stop, and the arrays of its row. ends: of a part of the ball."""
    last = len(toy.nodes) - 1
    row = np.zeros(toy.nodes[last]["size"])
    row[label], row[other] = 1, -1
    total, out = down_to(toy, found, {last: row}, stop, str(other), ends)
    return total, {f"{other}.stop": np.int64(stop)} | out


def down_to(
    toy: Toy,
    found: Evidence,
    left: dict[int, Array],
    stop: int,
    name: str,
    ends: Ends = MappingProxyType({}),
    slopes: Callable[[int, int, Array], Array] | None = None,
) -> tuple[float, dict[str, Any]]:
    """A lower bound of rows on cuts, and what was chosen. slopes: for a row at a cut and a step."""
    by_cut, total, out = {b.cut: b for b in blocks(toy)}, 0.0, dict[str, Any]()
    choose = slopes or (lambda k, i, a: None)
    while (k := max(left)) > stop:
        a, block, n = left.pop(k), by_cut[k], toy.nodes[k]
        c, l, u, w = (found.arrays[f"{k}.{name}"] for name in ("centre", "lower", "upper", "weights"))
        zone = (c, l, u, w, found.arrays[f"{k}.radius"])
        total -= float(abs(a) @ found.errors[k][1])

        def cut(i: int, zone: Any, k: int = k) -> Any:
            low, high = ends.get((k, i), (-np.inf, np.inf))
            return zone[0], np.maximum(zone[1], low), np.minimum(zone[2], high), *zone[3:]

        if n["kind"] in ("clamp", "leaky"):
            a, h = step(n, pieces(n, c.size), a, cut(0, zone), out, f"{name}.{k}", 0, choose(k, 0, a))
            total += h
        elif n["kind"] == "maxmin":
            a, h = sort_steps(n, a, zone, out, f"{name}.{k}", cut, lambda i, a, k=k: choose(k, i, a))
            total += h
        total += affine(toy, found, block, a, left)
    for s, a in left.items():
        c, l, u, after, _ = found.boxes[s]
        if s == 0:
            total += float(a @ c - found.boxes[0][3] * np.linalg.norm(a))
            continue
        zone = (c, l, u, np.ones(c.size), after)
        f = lambda lam, a=a, zone=zone: least([(-np.inf, np.inf, 1, 0)], a, 0 * a, lam, zone)
        out[f"{name}.end.{s}"] = best_lam(f)
        total += f(out[f"{name}.end.{s}"])
    return total, out


def affine(toy: Toy, found: Evidence, block: Block, a: Array, left: dict[int, Array]) -> float:
    """Hands a row on a block's value on to the sources; what the offset adds and a deployed evaluation loses."""
    zeros = {s: np.zeros(toy.nodes[s]["size"]) for s in block.sources}
    offsets = through(toy, block, zeros, lambda n, xs: xs[0] @ n["A"].T + n["b"])
    for s in block.sources:
        left[s] = left.get(s, 0) + block.maps[s].T @ a
    return float(a @ offsets) - float(abs(a) @ found.errors[block.cut][0])


def chord(n: Any, l: Array, u: Array) -> Array:
    f = lambda z: phi(n, z)
    return np.where(u > l, (f(u) - f(l)) / np.where(u > l, u - l, 1), 0)


def step(
    n: Any, ps: list[Any], a: Array, zone: Any, out: dict[str, Any], name: str, i: int, slopes: Array | None
) -> tuple[Array, float]:
    _, l, u, _, _ = zone
    slopes = chord(n, l, u) if slopes is None else slopes
    g = slopes * a
    h = lambda lam: least(ps, a, g, lam, zone)
    lam = best_lam(h)
    out |= {f"{name}.slopes.{i}": slopes, f"{name}.lam.{i}": lam}
    return g, h(lam)


def sort_steps(
    n: Any, a: Array, zone: Any, out: dict[str, Any], name: str, cut: Callable[..., Any], slopes: Callable[..., Any]
) -> tuple[Array, float]:
    f, s, total = n["first"], n["second"], 0.0
    c, l, u, w, r = zone
    if np.isfinite(n["low"]).any() or np.isfinite(n["high"]).any():
        sort = {"kind": "maxmin", "first": f, "second": s, "low": -np.inf, "high": np.inf}
        both = np.empty_like(w)
        small = np.minimum(w[f], w[s])
        fixed, other = l[f] >= u[s], l[s] >= u[f]
        both[f] = np.where(fixed, w[f], np.where(other, w[s], small))
        both[s] = np.where(fixed, w[s], np.where(other, w[f], small))
        clamp = {"kind": "clamp", "low": np.full(c.size, -np.inf), "high": np.full(c.size, np.inf)}
        clamp["high"][f], clamp["low"][s] = n["high"], n["low"]
        inner = (phi(sort, c), phi(sort, l), phi(sort, u), both, r)
        a, total = step(clamp, pieces(clamp, c.size), a, cut(1, inner), out, name, 1, slopes(1, a))
    p, q = a[f], a[s]
    size = {"kind": "leaky", "below": np.full(f.size, -1.0)}
    kink = (c[f] - c[s], l[f] - u[s], u[f] - l[s], np.minimum(w[f], w[s]) / np.sqrt(2), r)
    g, h = step(size, pieces(size, f.size), (p - q) / 2, cut(0, kink), out, name, 0, slopes(0, (p - q) / 2))
    back = np.empty_like(a)
    back[f], back[s] = (p + q) / 2 + g, (p + q) / 2 - g
    return back, total + h


def certify(toy: Toy, x: Array, label: int, eps: float, rng: np.random.Generator, *, single: bool = False) -> Evidence:
    """All evidence of an image; every class stops where it is best."""
    found = evidence(toy, x, eps, rng, single=single)
    for other in range(toy.nodes[-1]["size"]):
        if other == label:
            continue
        tried = [rows(toy, found, label, other, stop) for stop in toy.cuts]
        margin, arrays = max(tried, key=lambda t: t[0])
        found.arrays |= arrays
        found.margins[other] = margin
    return found
