"""Several activations of one value: each has the norm of its own slope, in estimates, proofs and radii."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from llcert.bounds import global_bound
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.certification import Assurance, Certifier, Settings, Verdict
from llcert.ir import Activation, Input, Network, Node, apply
from llcert.ops import Clamp, Concat, Leaky, Linear, MaxPool, Reshape, Sigmoid, relu
from llcert.program import lower
from llcert.spectral import VerifiedCholesky

SLOPES: dict[str, tuple[Activation, float]] = {
    "relu": (relu(), 1.0),
    "steep": (Leaky(torch.tensor(1.5)), 1.5),
    "sigmoid": (Sigmoid(), 0.25),
    "constant": (Clamp(torch.tensor(1.0), torch.tensor(1.0)), 0.0),
}


def _joined(hidden: Node, *activations: Activation) -> Node:
    return apply(Concat(0), *(apply(phi, hidden) for phi in activations))


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(SLOPES, 2)))
def test_each_activation_of_a_value_has_the_norm_of_its_own_slope(first: str, second: str) -> None:
    hidden = apply(Linear(torch.eye(3) * 2), apply(Input((3,))))
    both = [SLOPES[first], SLOPES[second]]
    program = lower(Network(_joined(hidden, *(phi for phi, _ in both))), dtype=torch.float64)
    for bound in (global_bound(program), proved_bound(program, VerifiedCholesky())):
        for block, (_, slope) in zip(program.blocks, both, strict=False):
            assert float(bound.norms[block.terms[0]]) == pytest.approx(2 * slope, rel=1e-6)


def _spike(second: Activation) -> tuple[Network, Tensor]:
    """A pool whose windows all see one pixel beside another activation; the answer changes 0.15 away from the image."""
    image = torch.full((1, 1, 5, 5), 0.1)
    image[0, 0, 2, 2] = 0.9
    node = apply(Input((1, 5, 5)))
    pooled = apply(MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), node)
    flat = [apply(Reshape((25,)), n) for n in (pooled, apply(second, node))]
    weight = torch.zeros(2, 50)
    weight[0, :25] = torch.tensor([float(1 <= i // 5 <= 3 and 1 <= i % 5 <= 3) for i in range(25)])
    return Network(apply(Linear(weight, torch.tensor([-6.9, 0.0])), apply(Concat(0), *flat))), image


@pytest.mark.parametrize("second", [relu(), MaxPool((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))], ids=["relu", "pool"])
@pytest.mark.parametrize("assurance", Assurance)
@pytest.mark.parametrize("stage", ["global", "local", "crown-ball"])
def test_an_overlapping_pool_beside_something_flatter_is_not_certified(
    second: Activation, assurance: Assurance, stage: str
) -> None:
    network, image = _spike(second)
    nearer = image.clone()
    nearer[0, 0, 2, 2] -= 0.15
    assert [int(network(x).argmax()) for x in (image, nearer)] == [0, 1]
    certifier = Certifier.of(network, Settings(0.3, stages=(stage,), assurance=assurance))
    result = certifier(image, torch.tensor([0]), torch.tensor([0]))
    assert result.samples[0].verdict is Verdict.UNDECIDED


def _hinge(direction: Tensor) -> tuple[Network, Tensor]:
    """`1 - 100 relu(v x - t)` beside a constant of the same pre-activation; t is 0.1 away from the image."""
    image = torch.full((1, len(direction)), 0.5)
    hidden = apply(Linear(direction[None], -(image @ direction) - 0.1), apply(Input((len(direction),))))
    joined = _joined(hidden, relu(), Clamp(torch.tensor(1.0), torch.tensor(1.0)))
    weight = torch.tensor([[-100.0, 0.0], [0.0, 0.0]])
    return Network(apply(Linear(weight, torch.tensor([1.0, 0.0])), joined)), image


@pytest.mark.parametrize("assurance", Assurance)
def test_a_hinge_that_no_random_point_meets_is_not_certified(assurance: Assurance) -> None:
    direction = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=0)
    network, image = _hinge(direction)
    assert int(network(image + 0.19 * direction).argmax()) == 1
    certifier = Certifier.of(
        network, Settings(0.2, stages=("global", "local", "crown-ball", "crown-ball-intermediate"), assurance=assurance)
    )
    result = certifier(image, torch.tensor([0]), torch.tensor([0]), self_check=True)
    assert result.samples[0].verdict is Verdict.UNDECIDED
