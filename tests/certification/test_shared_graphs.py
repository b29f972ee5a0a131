"""The campaign of shared values: networks whose values have several readers, bounds against what points show.

Regions, weighted radii, masks, backward rows, norms, eq. 6 of every block, and proved margins; points are drawn and
ascended, and evaluated in float64 and in float32 with sums in many orders, fused and with subnormals flushed.
All of it: `pytest tests/certification/test_shared_graphs.py --shared-graphs 5000 --shared-files 500`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from dense import exact_norm
from proofs import ORDERS, Silly, deployed_values, in_float32, points_of, prover, stays_inside, values_of
from random_graphs import random_image
from shared_graphs import shared_network
from torch import Tensor

from llcert.bounds import EstimatedArithmetic, GlobalBound, RowWeighting, Start, Trace, VerifiedArithmetic, propagate
from llcert.bounds.backward.choices import tightest
from llcert.bounds.backward.crown import Backward
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.forward.row_weights import row_weights
from llcert.certification.proof.hint import ProofHint
from llcert.certification.proof.prover import Prover
from llcert.certification.settings import Semantics
from llcert.domain.region import ball
from llcert.frontend.onnx_file import load, save
from llcert.ir import Network, Node, place
from llcert.numerics.tensors import flat
from llcert.program import Block, Program
from llcert.spectral import Masked

BATCH = 10
"""Networks a test."""

EPS = (0.0, 1e-4, 0.02, 0.1, 0.3, 1.0)
HINTS = (
    ProofHint(local=True, backward=True),
    ProofHint(local=False),
    ProofHint(local=True, weighting=RowWeighting.SECANT),
    ProofHint(local=True, intermediate=True, backward=True),
    ProofHint(local=False, liplt=True),
)
TINY = 1e-12
"""What float64 may err in the values that bounds are compared with, relative."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = "--shared-files" if "tmp_path" in metafunc.fixturenames else "--shared-graphs"
    metafunc.parametrize("first", range(0, metafunc.config.getoption(option), BATCH))


def test_bounds_of_networks_with_shared_values(first: int) -> None:
    for seed in range(first, first + BATCH):
        check(seed)


def test_files_with_shared_values_answer_as_proved(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + BATCH):
        check_file(seed, tmp_path / f"{seed}.onnx")


def single(seed: int) -> Network:
    network = shared_network(seed)
    return replace(network, output=place(network.output, "cpu", torch.float32))


def check(seed: int) -> None:
    network, eps, semantics = single(seed), EPS[seed % len(EPS)], list(Semantics)[seed % 4 // 3]
    image, weighting = random_image(network, seed).float(), list(RowWeighting)[seed // 2 % 2]
    own = prover(network, semantics)
    program = own.program
    bound = own.liplt.global_bound if own.liplt is not None and seed % 2 else own.global_bound
    with torch.no_grad():
        region = enclosing_ball(image.double(), eps)
        trace = propagate(
            program, region, VerifiedArithmetic(bound, own.solver, deployed=own.deployed), weighting=weighting
        )
    points = torch.cat([points_of(image, eps * (1 - 1e-6), 24, seed), ascended(program, trace, image, eps, seed)])
    observed = [values_of(program, points)]
    if semantics is Semantics.DEPLOYED:
        observed += evaluations(network, program, points, image, eps, seed)
    for before, after in observed:
        stays_inside(program, trace, before, after)
    norms_are_right(program, bound, trace, weighting)
    growth_is_right(own, image, eps, points)
    with torch.no_grad():
        rows_hold(program, trace, observed, seed)
    margins_hold(own, image, [after[program.output].double() for _, after in observed], seed, eps)


def ascended(program: Program, trace: Trace, image: Tensor, eps: float, seed: int) -> Tensor:
    """Points of the ball that move some value far: its weighted length, or a weighted sum of its entries."""
    generator = torch.Generator().manual_seed(seed + 1)
    block = program.blocks[int(torch.randint(len(program.blocks), (), generator=generator))]
    centre, (weights, _) = trace.pre_activation[block.node].centre, trace.weighted[block.node]
    direction = torch.randn(12, *block.pre.shape, generator=generator, dtype=torch.float64)
    points = points_of(image, eps / 2, 12, seed + 2)
    for _ in range(5):
        points = points.detach().requires_grad_()
        moved = values_of(program, points)[0][block.node] - centre
        heights = flat(direction * moved).sum(1), flat(weights * moved).square().sum(1)
        total = torch.cat([heights[0][:6], heights[1][6:]]).sum()
        if not total.requires_grad:  # a value that no point of the ball moves
            break
        (gradient,) = torch.autograd.grad(total, points)
        step = torch.nn.functional.normalize(flat(gradient)).reshape(points.shape)
        points = onto_ball(points + step * eps / 2, image, eps * (1 - 1e-9))
    return points.detach()


def onto_ball(points: Tensor, image: Tensor, eps: float) -> Tensor:
    away = points - image.double()
    length = torch.linalg.vector_norm(flat(away), dim=1).clamp(min=1e-300)
    return image.double() + away * (eps / length).clamp(max=1).reshape(-1, *[1] * (image.ndim - 1))


Values = tuple[dict[Node, Tensor], dict[Node, Tensor]]


def evaluations(
    network: Network, program: Program, points: Tensor, image: Tensor, eps: float, seed: int
) -> Iterator[Values]:
    """Values in float32 by torch's kernels and in two orders of summation, at points that lie in the ball."""
    rounded = points.float()
    away = torch.linalg.vector_norm(flat(rounded.double() - image.double()), dim=1)
    rounded = torch.cat([image, rounded[away <= eps]])
    orders = list(ORDERS.values())
    for number, order in enumerate((None, orders[seed % len(orders)], orders[(seed // 3 + 1) % len(orders)])):
        values = in_float32(network, rounded, order, flush=(seed + number) % 2 == 0)
        yield deployed_values(network, program, values)


def norms_are_right(program: Program, bound: GlobalBound, trace: Trace, weighting: RowWeighting) -> None:
    """Masked norms are at least the dense ones, and never above the global ones, block by block."""
    for block in program.blocks:
        weights = torch.minimum(row_weights(block, trace.pre_activation[block.node], weighting), _slopes(block))
        for term in block.terms:
            columns = trace.post_activation[term.source].varying.to(torch.float64)
            local = exact_norm(Masked(term, weights, columns))
            unmasked = exact_norm(Masked(term, _slopes(block), torch.ones_like(columns)))
            assert local * (1 - TINY) <= float(trace.norms[term].value), block.label
            assert unmasked * (1 - TINY) <= float(bound.norms[term]), f"{block.label}: global norm"
            assert float(trace.norms[term].value) <= float(bound.norms[term]), block.label


def _slopes(block: Block) -> Tensor:
    one = torch.ones(1, *block.pre.shape, dtype=torch.float64)
    return one if block.activation is None else one * block.activation.global_slope(block.pre.shape)


def growth_is_right(own: Prover, image: Tensor, eps: float, points: Tensor) -> None:
    """Eq. 6 of every block bounds how far any two points of the ball move its output apart; global ones likewise."""
    program, bound = own.program, own.global_bound
    trace = propagate(
        program, ball(image.double(), eps), EstimatedArithmetic(bound, solver=own.solver, start=Start.RANDOM)
    )
    after = values_of(program, points)[1]
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    apart = _between(points, order)
    for block in program.blocks:
        found = _between(after[block.node], order)
        for growth in (trace.lipschitz[block.node], bound.lipschitz[block.node]):
            assert bool((found <= float(growth) * apart * (1 + 1e-9) + TINY * _scale(after[block.node])).all()), (
                block.label
            )


def _between(values: Tensor, order: Tensor) -> Tensor:
    return torch.linalg.vector_norm(flat(values - values[order]), dim=1)


def _scale(values: Tensor) -> float:
    return 1 + float(values.abs().max()) if values.numel() else 1.0


def rows_hold(program: Program, trace: Trace, observed: list[Values], seed: int) -> None:
    """Backward rows on one block before its activation, and on two blocks' outputs, are below what points show."""
    generator = torch.Generator().manual_seed(seed + 3)
    backward = Backward(program)
    index, *pair = torch.randint(len(program.blocks), (3,), generator=generator).tolist()
    block, nodes = program.blocks[index], [program.blocks[i].node for i in pair]

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(1, 2, *shape, generator=generator, dtype=torch.float64)

    rows, several = drawn(block.pre.shape), {n: drawn(n.shape) for n in nodes}
    for policy in (tightest, Silly(seed)):
        for stops in (False, True):
            one = backward.of_pre_activation(trace, index, rows, policy, best_stop=stops).lower
            both = backward(trace, several, policy, best_stop=stops).lower
            for before, after in observed:
                assert _below(one, [(rows, before[block.node])]), block.label
                assert _below(both, [(r, after[n]) for n, r in several.items()]), [n.op.label for n in nodes]


def _below(bounds: Tensor, parts: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether `sum of rows . value` is at least the bounds, `[1, rows]`, at every point; NaN and -inf claim nothing."""
    values = [flat(v.double()) for _, v in parts]
    total = sum(v @ flat(r[0]).T for (r, _), v in zip(parts, values, strict=True))
    size = sum(v.abs() @ flat(r[0]).abs().T for (r, _), v in zip(parts, values, strict=True))
    assert isinstance(total, Tensor)
    return not bool((bounds > total + TINY * size).any())


def margins_hold(own: Prover, image: Tensor, observed: list[Tensor], seed: int, eps: float) -> None:
    """Proved margins between the logits of the program, a final ReLU's zero among them, are below observed ones."""
    label = own.program.logits(image.double()).argmax(1)
    proved = own(image, label, HINTS[seed % len(HINTS)], eps)[0]
    for logits in observed:
        found = (logits[:, label] - logits).amin(0)
        others = torch.arange(len(found)) != label
        assert not bool((proved > found + TINY * _scale(logits))[others].any()), f"{proved} proved, {found} found"


def check_file(seed: int, path: Path) -> None:
    """The proof of the network that the file holds, against the file in onnxruntime, optimised and as it stands."""
    once = single(seed)
    save(once, path)
    network, eps = load(path), EPS[1 + seed % (len(EPS) - 1)]
    image = random_image(network, seed).float()
    label = network(image).argmax(1)
    points = points_of(image, eps * (1 - 1e-6), 40, seed).float()
    away = torch.linalg.vector_norm(flat(points.double() - image.double()), dim=1)
    points = torch.cat([image, points[away <= eps]])
    proved = prover(network)(image, label, HINTS[seed % len(HINTS)], eps)[0]
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        logits = answers(path, points, level)
        found = (logits[:, label] - logits).amin(0)
        others = torch.arange(len(found)) != label
        assert not bool((proved[: len(found)] > found)[others].any()), f"{level}: {proved} proved, {found} found"


def answers(path: Path, points: Tensor, level: str) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: p[None].numpy()})[0] for p in points]
    return torch.from_numpy(np.concatenate(parts)).double()
