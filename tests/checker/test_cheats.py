"""Certificates that are false in one place and consistent elsewhere are rejected, by the rule of that place."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeds import sizes

from llcert.checker import Result, check

from . import generator
from .cases import write
from .generator import certify
from .networks import Toy


def network(rng: np.random.Generator, kind: str) -> Toy:
    """Two layers of one activation, a residual sum and a concatenation."""
    toy, never = Toy(classes=3), np.full(6, np.inf)

    def linear(at: int, size: int) -> int:
        A = rng.normal(size=(size, toy.nodes[at]["size"])) / 2
        return toy.add("linear", [at], size, A=A, b=rng.normal(size=size) / 4)

    def activation(at: int) -> int:
        if kind == "clamp":
            return toy.add("clamp", [at], 6, low=np.zeros(6), high=np.full(6, 0.5))
        if kind == "leaky":
            return toy.add("leaky", [at], 6, below=np.array([0.0, 0, 0, -1, 0.1, 0]))
        pairs = rng.permutation(6)
        clip = (
            {"low": np.full(3, -0.1), "high": np.full(3, 0.2)}
            if kind == "clipped"
            else {"low": -never[:3], "high": never[:3]}
        )
        return toy.add("maxmin", [at], 6, first=pairs[:3], second=pairs[3:], **clip)

    toy.add("input", [], 5)
    one = activation(linear(0, 6))
    two = activation(toy.add("add", [linear(one, 6), linear(0, 6)], 6))
    both = toy.add("concat", [one, two], 12, places=[np.arange(6), np.arange(6, 12)])
    linear(both, 3)
    return toy


def cheated(seed: int, kind: str, folder: Path) -> Result:
    rng = np.random.default_rng(seed)
    toy, x, eps = network(rng, kind), rng.normal(size=5), Fraction(1, 8)
    label = int(np.argmax(toy.evaluate(x[None])[0]))
    write(folder, toy, eps, [(label, certify(toy, x, label, float(eps), rng))])
    (result,) = check(folder)
    return result


def patched(name: str, to: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Replaces a function of the generator by `to`, which is handed the old one first."""
    before = getattr(generator, name)
    return lambda patch: patch.setattr(generator, name, lambda *a, **k: to(before, *a, **k))


def one_more(before: Any, n: Any, lower: Any, upper: Any) -> Any:
    """An entry that varies is said to be constant."""
    found = before(n, lower, upper)
    found[np.argmin(found)] = True
    return found


def mixed(before: Any, n: Any, lower: Any, upper: Any) -> Any:
    """The weights of a pair from each output alone: unsound where the order is open."""
    return (~generator.constant(n, lower, upper)).astype(float)


def shifted(before: Any, toy: Any, block: Any, start: Any, linear: Any) -> Any:
    """All values a little off, maps and halfwidths included."""
    return before(toy, block, start, linear) * 0.999


CHEATS: dict[str, tuple[str, tuple[str, ...], Callable[[pytest.MonkeyPatch], None]]] = {
    "chords": ("rule 3", ("clamp", "leaky"), patched("chords", lambda f, *a: f(*a) * 0.99)),
    "weights of 0": ("rule 3", ("clamp", "leaky", "plain"), patched("chords", lambda f, *a: f(*a) * (a[1] > 0))),
    "weights of each output": ("rule 3", ("clipped",), patched("maxmin_weights", mixed)),
    "masks": ("rule 2|rule 4", ("clamp", "leaky", "clipped"), patched("constant", one_more)),
    "radii": ("rule 5", ("clamp", "plain"), patched("radius_of", lambda f, *a, **k: f(*a, **k) * 0.99)),
    "root of squares": (
        "rule 5",
        ("clamp", "plain"),
        patched("radius_of", lambda f, *a, **k: f(*a, **(k | {"concat": True}))),
    ),
    "maps": ("rule 1|rule 2", ("clamp", "leaky", "plain"), patched("through", shifted)),
    "norms": ("rule 4", ("plain",), lambda p: p.setattr(generator, "SLACK", 1 - 1e-3)),
}


@pytest.mark.parametrize("tried", sizes(6, 12))
@pytest.mark.parametrize("name", CHEATS)
def test_a_consistent_cheat_is_rejected_by_its_rule(
    name: str, tried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, kinds, cheat = CHEATS[name]
    reasons: list[str] = []
    cheat(monkeypatch)
    for kind in kinds:
        for seed in range(tried):
            result = cheated(seed, kind, tmp_path / f"{kind}{seed}")
            reasons.append("accepted" if result.accepted else result.reason)
    named = sum(any(rule in reason for rule in rules.split("|")) for reason in reasons)
    assert named >= len(reasons) / 2, reasons


@pytest.mark.parametrize("kind", ["clamp", "leaky", "plain", "clipped"])
def test_without_a_cheat_no_such_rule_is_named(kind: str, tmp_path: Path) -> None:
    for seed in range(6):
        result = cheated(seed, kind, tmp_path / str(seed))
        assert result.accepted or "rule 7" in result.reason
