"""The soundness campaign: random graphs over all operators against sampling, dense SVD and attack.

CI runs a seeded share; all of it: `pytest tests/certification/test_random_graphs.py --graphs 1000`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attacks import attacked
from dense import exact_norm
from random_graphs import in_format, random_image, random_network
from torch import Tensor

from llcert.api import load
from llcert.bounds import EstimatedArithmetic, GlobalBound, RowWeighting, Trace, global_bound, propagate
from llcert.bounds.forward.row_weights import row_weights
from llcert.certification import PGD, AttackLoss, Certifier, Settings, Verdict
from llcert.domain.region import ball
from llcert.frontend.onnx_file import save
from llcert.ir import Network, Node, topological
from llcert.program import Program, lower
from llcert.spectral import Lanczos, Masked

POINTS = 100
TIGHT = Lanczos(tolerance=1e-5)
EARLY = 2e-3
"""How far below the truth an iteration may stop, relative."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    first = metafunc.config.getoption("--first-graph")
    metafunc.parametrize("seed", range(first, first + metafunc.config.getoption("--graphs")))


@torch.no_grad()
def test_bounds_of_a_random_graph(seed: int, tmp_path: Path) -> None:
    network, image = random_network(seed), random_image(random_network(seed), seed)
    program = lower(network, dtype=torch.float64)
    bound = global_bound(program, TIGHT)
    eps = [0.02, 0.1, 0.5][seed % 3]
    points = _points(image, eps, seed)
    for weighting in RowWeighting:
        trace = propagate(
            program, ball(image, eps), EstimatedArithmetic(bound, solver=TIGHT, seed=seed), weighting=weighting
        )
        _values_stay_inside(program, trace, points)
        _norms_are_right(program, bound, trace, weighting)
    _export_agrees(network, image, tmp_path / "graph.onnx")
    _certified_balls_hold_no_attack(network, points, image, eps)


def _points(image: Tensor, eps: float, seed: int) -> Tensor:
    """Points of the ball, half of them on its sphere, `[points, *shape]`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(POINTS, *image.shape[1:], generator=generator, dtype=torch.float64)
    noise = noise / torch.linalg.vector_norm(noise.flatten(1), dim=1).reshape(-1, *[1] * (image.ndim - 1))
    size = torch.rand(POINTS, *[1] * (image.ndim - 1), generator=generator, dtype=torch.float64)
    size[: POINTS // 2] = 1
    return image + eps * size * noise


def _values_stay_inside(program: Program, trace: Trace, points: Tensor) -> None:
    centre = program.logits(trace.post_activation[program.input].region.centre)
    values: dict[Node, Tensor] = {program.input: points}
    for block in program.blocks:
        z = block.value(values)
        values[block.node] = z if block.activation is None else block.activation(z)
        everyone = torch.zeros(len(points), dtype=torch.int64)
        assert trace.pre_activation[block.node].select(everyone).contains(z, tolerance=1e-9).all(), block.label
        hidden = trace.post_activation[block.node]
        region = replace(hidden.region, radius=hidden.region.radius * (1 + EARLY)).select(everyone)
        assert region.contains(values[block.node], tolerance=1e-9).all(), block.label
        moved = (values[block.node] - hidden.region.centre).abs() > 1e-12
        assert not (moved & ~hidden.varying).any(), f"{block.label}: a constant output moved"
    if trace.logit_lipschitz is not None:
        distance = torch.linalg.vector_norm(
            (points - trace.post_activation[program.input].region.centre).flatten(1), dim=1
        )
        growth = torch.linalg.vector_norm(values[program.output] - centre, dim=1)
        assert (growth <= trace.logit_lipschitz * distance * (1 + 1e-6) + 1e-12).all()


def _norms_are_right(program: Program, bound: GlobalBound, trace: Trace, weighting: RowWeighting) -> None:
    if trace.logit_lipschitz is not None:
        assert (trace.logit_lipschitz <= bound.logit_lipschitz).all(), "Theorem 1: local <= global"
    for block in program.blocks:
        weights = row_weights(block, trace.pre_activation[block.node], weighting)
        for term in block.terms:
            columns = trace.post_activation[term.source].varying.to(torch.float64)
            local = exact_norm(Masked(term, weights, columns))
            slope = torch.ones(1, *block.pre.shape, dtype=torch.float64)
            if block.activation is not None:
                slope = slope * block.activation.global_slope(block.pre.shape)
            unmasked = exact_norm(Masked(term, slope, torch.ones_like(columns)))
            assert local <= unmasked * (1 + 1e-12), f"{block.label}: masked norm above unmasked"
            found = float(trace.norms[term].value)
            assert local * (1 - EARLY) - 1e-12 <= found <= float(bound.norms[term]), block.label


def _export_agrees(network: Network, image: Tensor, path: Path) -> None:
    """In float32, which onnxruntime runs: load() compares with it, and the second import must be the first."""
    once = in_format(network, torch.float32)
    save(once, path)
    again = load(path)
    save(again, path)
    kinds = [[type(n.op).__name__ for n in topological(x.output)] for x in (again, load(path))]
    assert kinds[0] == kinds[1]
    difference = (once(image.float()) - again(image.float())).abs().max()
    assert difference == 0 or kinds[0] != [type(n.op).__name__ for n in topological(once.output)]
    assert difference <= 1e-5 * (1 + once(image.float()).abs().max())


def _certified_balls_hold_no_attack(network: Network, points: Tensor, image: Tensor, eps: float) -> None:
    certifier = Certifier.of(network, Settings(eps, stages=("global", "local")), dtype=torch.float64)
    label = network(image).argmax(1)
    result = certifier(image, label, torch.zeros(1, dtype=torch.int64))
    if result.samples[0].verdict is Verdict.CERTIFIED:
        assert (network(points).argmax(1) == label).all()
        with torch.enable_grad():
            pgd = PGD(steps=20, restarts=2, loss=AttackLoss.MARGIN)
            assert not attacked(pgd, certifier.program, image, label, eps, whole=True).refuted.any()
