"""What is proved of random networks over all operators is accepted by the checker, or refused at once by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from certificates import certified, single
from random_graphs import random_image, random_network
from seeds import seeds

from llcert.certificate_writer.graph import CertificateGraph
from llcert.certification import Semantics
from llcert.checker import check
from llcert.errors import UnsupportedModel
from llcert.ir import Input, LinearOp, Network, Node, apply
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    GroupSort,
    Leaky,
    Linear,
    MaxMin,
    Reshape,
    Tanh,
    relu,
)
from llcert.ops.clamp import Spelling
from llcert.program import lower


def network(seed: int) -> Network:
    """Convolution with batch norm, a residual sum, a concatenation, leaky and MaxMin layers, in float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    def conv(node: Node, out: int) -> Node:
        kernel = normal(out, node.shape[0], 3, 3, scale=(9 * node.shape[0]) ** -0.5)
        node = apply(Conv(kernel, normal(out, scale=0.2), (1, 1), (1, 1)), node)
        norm = BatchNorm(1 + normal(out, scale=0.1), normal(out, scale=0.1), normal(out, scale=0.1), torch.ones(out))
        return apply(norm, node)

    image = apply(Input((1, 5, 5)))
    first = apply(relu(), conv(image, 4))
    second = apply(Leaky(torch.tensor(0.1)), apply(Add(), conv(first, 4), conv(image, 4)))
    both = apply(Concat(0), apply(MaxMin(0), conv(second, 4)), first)
    flat = apply(Reshape((200,)), both)
    return Network(apply(Linear(normal(3, 200, scale=0.1), normal(3, scale=0.1)), flat))


@pytest.mark.parametrize("seed", range(3))
def test_conv_batch_norm_residual_concat_leaky(seed: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 1, 5, 5, generator=generator)
    count = certified(network(seed), images, ["0.01", "0.05"][seed % 2], tmp_path)
    results = list(check(tmp_path))
    assert count == len(results) > 0
    assert [r.reason for r in results if not r.accepted] == []


@pytest.mark.parametrize("seed", [*range(40), *seeds(0, 120)[90:]])
def test_random_graphs(seed: int, tmp_path: Path) -> None:
    found, image = random_network(seed), random_image(random_network(seed), seed)
    found = single(found) if seed % 4 else found
    noise = torch.randn(3, *image.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    eps, stages = [("0.001", ("global", "local", "crown-ball")), ("0.02", ("crown-ball",)), ("0.2", ("crown-ball",))][
        seed % 3
    ]
    semantics = Semantics.REAL if seed % 5 == 0 else Semantics.DEPLOYED
    supported = {Add, Affine, BatchNorm, Clamp, Concat, Leaky, MaxMin}
    known = all(
        isinstance(n.op, LinearOp) or type(n.op) in supported or n.op.label == "GroupSort(2)" for n in found.operators()
    )
    if not known:
        with pytest.raises(UnsupportedModel, match="a certificate has no rule for this operator"):
            certified(found, image, eps, tmp_path, stages=stages, semantics=semantics)
        return
    certified(found, image + 0.1 * noise, eps, tmp_path, stages=stages, semantics=semantics)
    assert [r.reason for r in check(tmp_path) if not r.accepted] == []


def test_the_operator_that_has_no_rule_is_named() -> None:
    node = apply(Tanh(), apply(Linear(torch.eye(3)), apply(Input((3,)))), name="squash")
    with pytest.raises(UnsupportedModel, match="--proof: Tanh squash"):
        CertificateGraph.of(lower(Network(apply(Linear(torch.eye(3)), node)), dtype=torch.float64))


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_sorted_pairs_are_a_maxmin(axis: int, descending: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    node = apply(Reshape((2, 4)), apply(Linear(torch.randn(8, 3, generator=generator)), apply(Input((3,)))))
    node = apply(Reshape((8,)), apply(GroupSort(axis, 2, descending), node))
    network = Network(apply(Linear(torch.randn(3, 8, generator=generator)), node))
    images = torch.rand(6, 3, generator=generator)
    assert certified(network, images, "0.01", tmp_path, stages=("global", "local", "crown-ball")) > 3
    assert [r.reason for r in check(tmp_path) if not r.accepted] == []


def test_larger_groups_are_refused() -> None:
    node = apply(GroupSort(0, 4), apply(Linear(torch.ones(8, 3)), apply(Input((3,)))), name="sorted")
    with pytest.raises(UnsupportedModel, match=r"--proof: GroupSort\(4\) sorted: .* MaxMin"):
        CertificateGraph.of(lower(Network(apply(Linear(torch.ones(3, 8)), node)), dtype=torch.float64))


def thresholds(spelling: Spelling) -> Network:
    """`min(relu(x), 0.7)` in float32, spelled in one of its ways."""
    clamp = Clamp(torch.tensor(0.0), torch.tensor(0.7), spelling)
    node = apply(clamp, apply(Linear(torch.eye(3)), apply(Input((3,)))), name="theta")
    return Network(apply(Linear(torch.eye(3)), node))


@pytest.mark.parametrize("spelling", [Spelling.REFLECTED, Spelling.EXCESS])
def test_a_bound_taken_by_sums_is_refused_where_their_rounding_counts(spelling: Spelling, tmp_path: Path) -> None:
    images = torch.tensor([[0.1, 0.5, 0.2]])
    with pytest.raises(UnsupportedModel, match=r"--proof: ReLU-theta theta: .* sums, which round.*--semantics real"):
        certified(thresholds(spelling), images, "0.1", tmp_path / "sums")
    for name, way, semantics in (
        ("real", spelling, Semantics.REAL),
        ("minimum", Spelling.MINIMUM, Semantics.DEPLOYED),
    ):
        assert certified(thresholds(way), images, "0.1", tmp_path / name, semantics=semantics) == 1
        assert [r.reason for r in check(tmp_path / name) if not r.accepted] == []
