"""Sound certificates are accepted, and nothing false is, whatever is done to a certificate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeds import sizes

from .cases import Case, change, only, random_case, worst_margin, written

SEEDS = range(25)


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
