"""Intermediate bounds: true, never looser where they are used, and the same whether rows are shared or not."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from proofs import points_of, prover
from torch import Tensor

from llcert.bounds import VerifiedArithmetic, propagate
from llcert.bounds.backward.choices import tightest
from llcert.bounds.backward.coloring import _through, coloring
from llcert.bounds.backward.concretize import row_length
from llcert.bounds.backward.crown import Backward
from llcert.bounds.backward.intermediate import candidates, colorings, intermediate_bounds
from llcert.bounds.forward.outward import enclosing_ball
from llcert.certification import Certifier, Settings, Verdict
from llcert.domain.row_sharing import UNSHARED, SharedRows
from llcert.ir import Input, Network, Node, apply
from llcert.ops import Add, Affine, Conv, Leaky, Linear, MaxMin, Reshape, Take, relu
from llcert.program import Program, lower


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 3


def conv(node: Node, out: int, seed: int, stride: int = 1) -> Node:
    weight, bias = normal(out, node.shape[0], 3, 3, seed=seed), normal(out, seed=seed + 9)
    return apply(Conv(weight, bias, (stride, stride), (1, 1)), node)


def dense(node: Node, out: int, seed: int) -> Node:
    flat = apply(Reshape((torch.Size(node.shape).numel(),)), node)
    return apply(Linear(normal(out, flat.shape[0], seed=seed), normal(out, seed=seed + 9)), flat)


def convolutional(side: int = 8) -> Network:
    node = apply(relu(), conv(apply(Input((1, side, side))), 2, 0, stride=2))
    node = apply(Leaky(torch.tensor(0.1)), conv(node, 3, 1))
    return Network(dense(apply(relu(), dense(node, 6, 2)), 3, 3))


def residual() -> Network:
    first = apply(relu(), conv(apply(Input((1, 6, 6))), 2, 0))
    second = apply(relu(), conv(first, 2, 1))
    return Network(dense(apply(relu(), apply(Add(), first, conv(second, 2, 2))), 3, 3))


def depthwise() -> Network:
    node = apply(relu(), conv(apply(Input((1, 6, 6))), 2, 0))
    own = Conv(normal(2, 1, 3, 3, seed=1), normal(2, seed=2), (1, 1), (1, 1), groups=2)
    return Network(dense(apply(relu(), apply(own, node)), 3, 3))


def shifted() -> Network:
    """Entries that read one value by different ways: `leaky(h_i) + h_(i+1)`."""
    first = apply(relu(), apply(Affine(1 + normal(1, 8, seed=4), normal(1, 8, seed=5)), apply(Input((1, 8)))))
    there = apply(Take(1, (1, 2, 3, 4, 5, 6, 7, 0)), first)
    bent = apply(Leaky(torch.tensor(0.1)), apply(Affine(1 + normal(1, 8, seed=6), normal(1, 8, seed=7)), first))
    return Network(dense(apply(relu(), apply(Add(), bent, there)), 3, 3))


NETWORKS = {"convolutional": convolutional, "residual": residual, "depthwise": depthwise, "shifted": shifted}


def program_of(network: Network) -> Program:
    return lower(network, "cpu", torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_sampled_values_lie_in_the_boxes(name: str) -> None:
    network, eps = NETWORKS[name](), 0.3
    made = prover(network)
    images = torch.rand(2, *network.input.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    region = enclosing_ball(images, eps)
    trace = propagate(made.program, region, VerifiedArithmetic(made.global_bound, made.solver, deployed=made.deployed))
    boxes = {n: b.ends for n, b in intermediate_bounds(Backward(made.program), trace, colorings(made.program)).items()}
    assert boxes
    tighter = propagate(
        made.program, region, VerifiedArithmetic(made.global_bound, made.solver, deployed=made.deployed), boxes=boxes
    )
    for image in range(2):
        points = points_of(images[image : image + 1], eps, 200, seed=image)
        values = {made.program.input: points}
        for block in made.program.blocks:
            z = block.value(values)
            values[block.node] = z if block.activation is None else block.activation(z)
            if block.node in boxes:
                lower_, upper = (side[image] for side in boxes[block.node])
                assert ((z >= lower_) & (z <= upper)).all()
            known = tighter.post_activation[block.node].region
            assert ((values[block.node] >= known.lower[image]) & (values[block.node] <= known.upper[image])).all()
            assert (known.radius[image] <= trace.post_activation[block.node].region.radius[image] * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_shared_rows_give_what_each_row_gives_alone(name: str) -> None:
    made = prover(NETWORKS[name]())
    images = torch.rand(2, *made.program.input.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trace = propagate(made.program, enclosing_ball(images, 0.2), VerifiedArithmetic(made.global_bound, made.solver))
    backward, found = Backward(made.program), colorings(made.program)
    for index, colored in found.items():
        shape = made.program.blocks[index].pre.shape
        count = torch.Size(shape).numel()
        alone = torch.eye(count, dtype=torch.float64).reshape(1, count, *shape).expand(2, -1, *shape)
        single = backward.of_pre_activation(trace, index, alone, partial(tightest, iterations=2)).lower
        for wanted in (torch.ones(shape, dtype=torch.bool), normal(*shape, seed=index) > 0):
            few = colored.rows_for(wanted)
            assert torch.equal(few.bounded, wanted.flatten())
            rows = few.rows.double().expand(2, *few.rows.shape)
            policy = partial(tightest, iterations=2)
            shared = backward.of_pre_activation(
                trace, index, rows, policy, sharing=few.sharing, sharing_below=few.sharing_below
            ).lower
            assert torch.allclose(single[:, few.bounded], shared[:, few.bounded], rtol=1e-9, atol=1e-9)


def test_rows_are_shared_by_entries_that_do_not_meet() -> None:
    shape = (3, 12, 12)
    colored = coloring(program_of(convolutional(24)), 1, 2**21)
    assert colored is not None
    everything = colored.rows_for(torch.ones(shape, dtype=torch.bool))
    assert sorted(everything.sharing.owners[everything.rows].tolist()) == list(range(3 * 12 * 12))
    assert len(everything.rows) == 3 * (int(colored.groups.max()) + 1) < 12 * 12
    wanted = torch.zeros(shape, dtype=torch.bool)
    wanted[0, ::2] = wanted[2, 1::2] = True  # each position in one channel
    assert len(colored.rows_for(wanted).rows) == len(everything.rows) // 3
    assert len(colored.rows_for(torch.zeros(shape, dtype=torch.bool)).rows) == 0


def test_what_is_too_large_or_mixed_has_no_rows() -> None:
    assert coloring(program_of(convolutional()), 1, 100) is None
    mixed = apply(MaxMin(), conv(apply(Input((1, 4, 4))), 2, 0))
    program = program_of(Network(dense(apply(relu(), dense(mixed, 4, 1)), 3, 2)))
    assert candidates(program) == []
    assert colorings(program) == {}
    assert coloring(program, 1, 2**21) is None
    assert candidates(program_of(convolutional())) == [1, 2]


def test_counts_too_large_to_compare_are_no_proof() -> None:
    class Many:
        def __init__(self, paths: float) -> None:
            self.paths = paths

        def paths_back(self, x: Tensor) -> Tensor:
            return x * self.paths

    owners = torch.tensor([[0, 1, 2, 3]])  # 3: of nobody
    for paths in (1.0, 2.0**20):
        assert torch.equal(_through(Many(paths), owners, 3), owners)  # type: ignore[arg-type]
    for paths in (2.0**26, 2.0**600, torch.inf):
        assert _through(Many(paths), owners, 3) is None  # type: ignore[arg-type]


def test_sums_per_bound_and_back_to_entries() -> None:
    owners = torch.tensor([[0, 1, 2], [2, 2, 1]])  # 2 is nobody
    sharing = SharedRows(owners, 2)
    entries = torch.tensor([[[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]])
    assert sharing.sums(entries).tolist() == [[1.0, 34.0]]
    assert sharing.expanded(torch.tensor([[5.0, 7.0]]), entries).tolist() == [[[5.0, 7.0, 0.0], [0.0, 0.0, 7.0]]]
    assert UNSHARED.sums(entries).tolist() == [[7.0, 56.0]]


def test_lengths_of_shared_rows_do_not_vanish() -> None:
    sharing = SharedRows(torch.tensor([[0, 1, 2]]), 2)
    tiny = torch.tensor([[[1e-170, 1.0, 0.0]]], dtype=torch.float64)
    assert float(row_length(tiny, sharing)[0, 0]) >= 1e-170


def test_a_proof_sees_ways_that_vanish_in_float32() -> None:
    """A factor of 1e-50, and later ones that make up for it: nothing at all in float32, the whole signal in float64."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    node = apply(relu(), apply(Affine(one, zero), apply(Input((1, 8)))))
    for scale, shift in ((1e-50, 0.0), (1e25, 0.0), (1e26, -4.6)):
        node = apply(Affine(scale * one, shift * one), node)
    flat = apply(Reshape((8,)), apply(relu(), node))
    weight = torch.zeros(2, 8, dtype=torch.float64)
    weight[1, 0] = 1
    network = Network(apply(Linear(weight, torch.tensor([0.5, 0.0], dtype=torch.float64)), flat))
    image = torch.full((1, 1, 8), 0.5, dtype=torch.float64)
    nearby = image.clone()
    nearby[0, 0, 0] += 0.09
    assert network(image).argmax(1) == 0
    assert network(nearby).argmax(1) == 1
    first = torch.tensor([0])
    for stages in (("crown-ball-intermediate",), ("local", "crown-ball", "crown-ball-intermediate")):
        (sample,) = Certifier.of(network, Settings(0.1, stages=stages))(image, first, first).samples
        assert sample.verdict is not Verdict.CERTIFIED
