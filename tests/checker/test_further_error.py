"""The length of what a deployed block errs (rule 10): against errors at points of the balls, and in certificates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from mixed import mixed
from random_graphs import random_network

from llcert.certificate_writer.graph import CertificateGraph
from llcert.checker.blocks import Block
from llcert.checker.deployed import errors, further_error, length_around_centre, weighted
from llcert.checker.files import Arrays, InvalidCertificate
from llcert.checker.forward import propagate
from llcert.checker.graph import Graph, build
from llcert.checker.known import Cut
from llcert.ir import Activation
from llcert.program import lower

from . import generator
from .networks import Array, Toy, graph_json, model_arrays, random_toy

pytestmark = pytest.mark.usefixtures("quiet")


def arrays(found: dict[str, Array]) -> Arrays:
    return Arrays("file", {k: np.asarray(v) for k, v in found.items()})


def graph_of(number: int) -> Graph:
    """Of a toy, or of a network whose values have several types."""
    if number % 2:
        return build(graph_json(toy := random_toy(np.random.default_rng(number))), arrays(model_arrays(toy)))
    network = mixed(random_network(number), number)
    if any(n.op.described(n.inputs[0].shape) is None for n in network.operators() if isinstance(n.op, Activation)):
        pytest.skip("an operator without rules")
    written = CertificateGraph.of(lower(network, dtype=torch.float64), deployed=False)
    return build(written.graph_json(), Arrays("model.npz", written.arrays))


def random_cut(size: int, rng: np.random.Generator) -> Cut:
    """A ball around a centre with zeros, in a box that cuts it; some entries are always 0."""
    centre = rng.normal(size=size) * (rng.random(size) < 0.6) * 10.0 ** rng.integers(-3, 3)
    after = float(rng.choice([0.0, 1e-3, 1.0, 100.0]))
    half = np.where(rng.random(size) < 0.5, after, abs(rng.normal(size=size)) * after) * (rng.random(size) < 0.8)
    return Cut(centre, centre - half, centre + half, after, np.ones(size, bool))


def points(cut: Cut, rng: np.random.Generator) -> Iterator[Array]:
    """Of the ball and the box, most of them as far from 0 as they may be."""
    for _ in range(8):
        noise = rng.normal(size=cut.centre.size)
        away = np.where(cut.centre == 0, np.sign(noise), np.sign(cut.centre)) * (abs(noise) ** rng.integers(0, 3))
        step = away if rng.random() < 0.8 else noise
        step *= cut.after / max(np.linalg.norm(step), 1e-300)
        yield np.clip(cut.centre + step, cut.lower, cut.upper)


def value_of(block: Block, h: dict[int, Array]) -> tuple[Array, Array]:
    """The block's value, and a bound of what float64 errs in it."""
    return block.value(h), 1e-12 * block.size({s: abs(x) for s, x in h.items()})[0]


@pytest.mark.parametrize("number", range(24))
def test_no_point_of_the_balls_has_longer_errors(number: int) -> None:
    rng = np.random.default_rng(number)
    for block in graph_of(number).blocks.values():
        cuts = {s: random_cut(block.maps[s].sizes.shape[1], rng) for s in block.sources}
        centre = value_of(block, {s: c.centre for s, c in cuts.items()})
        weights = rng.random(centre[0].size).round(1)
        bound = length_around_centre(block, cuts, centre, weights)
        for several in zip(*(points(c, rng) for c in cuts.values()), strict=True):
            h = dict(zip(cuts, several, strict=True))
            z, off = value_of(block, h)
            found = errors(block, {s: abs(x) for s, x in h.items()}, abs(z) + off)
            assert np.linalg.norm(weights * found) <= bound * (1 + 1e-12)


def test_the_further_error_is_met_where_sizes_grow_from_nothing() -> None:
    """Equal weights, a centre of zeros: at the farthest point the bound has hardly more than there is."""
    toy = Toy(classes=40)
    at = toy.add("input", [], 40)
    for _ in range(3):
        at = toy.add("linear", [at], 40, A=np.ones((40, 40)), b=np.zeros(40))
    (block,) = build(graph_json(toy), arrays(model_arrays(toy))).blocks.values()
    zero, size = np.zeros(40), np.full(40, 2 / np.sqrt(40))
    cut = Cut(zero, zero - 2, zero + 2, 2.0, np.ones(40, bool))
    found = np.linalg.norm(errors(block, {0: size}, abs(block.value({0: size}))))
    assert found <= length_around_centre(block, {0: cut}, (zero, zero), np.ones(40)) <= 1.01 * found
    assert found / 1.01 <= further_error(block, {0: 2.0}) <= 1.01 * found


@dataclass(frozen=True)
class Certificate:
    """Of a network of two wide layers: its files, and what rule 5 asks of the last radius."""

    toy: Toy
    evidence: dict[str, Array]
    eps: float
    last: int
    moved: float
    centred: float
    grown: float
    boxed: float

    def checked(self, radius: float) -> None:
        """Raises Rejected where the radius is too small."""
        changed = self.evidence | {f"{self.last}.{name}": np.float64(radius) for name in ("radius", "after")}
        propagate(build(graph_json(self.toy), arrays(model_arrays(self.toy))), arrays(changed), self.eps, run=True)


@cache
def certificate(eps: float) -> Certificate:
    rng, toy = np.random.default_rng(0), Toy(classes=60)
    single = lambda v: v.astype(np.float32).astype(float)  # noqa: E731
    at = toy.add("input", [], 100)
    at = toy.add("linear", [at], 80, A=single(rng.normal(size=(80, 100)) / 10), b=single(rng.normal(size=80) / 4))
    at = toy.add("clamp", [at], 80, low=np.zeros(80), high=np.full(80, np.inf))
    last = toy.add("linear", [at], 60, A=single(rng.normal(size=(60, 80)) / 9), b=np.zeros(60))
    x = rng.normal(size=100) / 10
    found = generator.evidence(toy, x, eps, rng, single=True)
    centre, lower, upper, after, _ = found.boxes[at]
    tail = generator.blocks(toy)[-1]
    there = centre + 1e-40 * (np.maximum(abs(lower), abs(upper)) > 0)
    z = toy.evaluate(x[None])[0]
    lost = generator.single_errors(toy, tail, {at: (there, there, there)}, abs(z))
    A = abs(toy.nodes[last]["A"])
    norm, u, entries = np.sqrt(A.sum(1).max() * A.sum(0).max()), 2.0**-24, int((A > 0).sum(1).max())
    grown = u * (6 + entries) * (1 + 4 * u * (entries + 9)) * norm * after
    moved = float(found.arrays[f"{last}.norm.{at}"]) * after
    boxed = float(np.linalg.norm(found.errors[last][0]))
    return Certificate(toy, found.arrays, eps, last, moved, float(np.linalg.norm(lost)), float(grown), boxed)


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_a_radius_may_pay_for_the_centre_and_the_ball(eps: float) -> None:
    """Which is less than what the box asks, with every entry at its end."""
    case = certificate(eps)
    least = case.moved + case.centred + case.grown
    assert case.centred + case.grown < 0.95 * case.boxed
    case.checked(least * (1 + 1e-8))
    case.checked(case.moved + case.boxed * (1 + 1e-8))
    with pytest.raises(InvalidCertificate, match=r"rule 5 \(radius\)"):
        case.checked(case.moved + 0.99 * (case.centred + case.grown))


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_a_radius_that_forgets_the_ball_is_rejected(eps: float) -> None:
    case = certificate(eps)
    for radius in (case.moved + case.centred * (1 + 1e-6), case.moved + case.centred + 0.9 * case.grown):
        with pytest.raises(InvalidCertificate, match=r"rule 5 \(radius\)"):
            case.checked(radius)


def test_a_radius_that_forgets_what_is_zero_at_the_centre_is_rejected() -> None:
    """Half of the clamp's outputs are 0 at the centre; each of them is a term that may round elsewhere."""
    case = certificate(0.3)
    (block,) = (b for b in generator.blocks(case.toy) if b.cut == case.last)
    source = block.sources[0]
    centre = np.maximum(case.evidence[f"{source}.centre"], 0)
    z = case.toy.evaluate(case.evidence["x"][None])[0]
    lost = generator.single_errors(case.toy, block, {source: (centre, centre, centre)}, abs(z))
    forgotten = float(np.linalg.norm(lost))
    assert forgotten < 0.9 * case.centred
    with pytest.raises(InvalidCertificate, match=r"rule 5 \(radius\)"):
        case.checked(case.moved + forgotten + case.grown)


def test_a_checker_that_is_told_no_weights_asks_for_nothing() -> None:
    assert weighted(np.zeros(3), np.ones(3), np.ones(3)) == 0
