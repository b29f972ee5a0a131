"""Fixtures of the checker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from llcert.checker import check

from .cases import write
from .generator import certify
from .networks import Toy


@pytest.fixture
def quiet() -> Iterator[None]:
    """The checker is silent about NaN and infinity, which fail every comparison."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A certificate of a network with a node of every kind."""
    rng, toy = np.random.default_rng(0), Toy(classes=2)

    def linear(at: int, size: int) -> int:
        A = rng.normal(size=(size, toy.nodes[at]["size"]))
        return toy.add("linear", [at], size, A=A.astype(np.float32).astype(float), b=np.zeros(size))

    toy.add("input", [], 4)
    clamp = toy.add("clamp", [linear(0, 4)], 4, low=np.zeros(4), high=np.full(4, 2.0))
    leaky = toy.add("leaky", [toy.add("add", [clamp, linear(clamp, 4)], 4)], 4, below=np.full(4, -0.5))
    at = toy.add("concat", [clamp, leaky], 8, places=[np.arange(4) * 2, np.arange(4) * 2 + 1])
    none = np.full(4, np.inf)
    at = toy.add("maxmin", [at], 8, first=np.arange(4), second=np.arange(4, 8), low=-none, high=none)
    linear(at, 2)
    x, eps = rng.normal(size=4), Fraction(1, 1000)
    label = int(np.argmax(toy.evaluate(x[None])[0]))
    write(tmp_path, toy, eps, [(label, certify(toy, x, label, float(eps), rng))])
    (result,) = check(tmp_path)
    assert result.accepted, result.reason
    return tmp_path
