"""The checker on networks whose values have different types: what it refuses, and what rounding it asks for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certificates import certified
from mixed import in_own_formats, mixed
from random_graphs import random_image, random_network

from llcert.certificate_writer.graph import CertificateGraph
from llcert.checker import check
from llcert.checker.deployed import errors
from llcert.checker.files import Arrays, InvalidCertificate
from llcert.checker.graph import Graph, build
from llcert.ir import Input, LinearOp, Network, apply
from llcert.ops import Add, Affine, BatchNorm, Clamp, Concat, Leaky, Linear, MaxMin, relu
from llcert.ops.cast import cast
from llcert.program import lower


def two_layers() -> Network:
    """`(x + 1000) - 1000` in float32, then in float64, and float32 logits."""
    there = apply(Linear(torch.ones(1, 1), torch.tensor([1000.0])), apply(Input((1,))))
    back = apply(Linear(torch.ones(1, 1), torch.tensor([-1000.0])), there)
    weight, bias = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([-0.2, 0.0]).double()
    return Network(cast(apply(Linear(weight, bias), cast(back, torch.float64)), torch.float32))


def written(network: Network) -> tuple[dict[str, Any], Arrays]:
    graph = CertificateGraph.of(lower(network, dtype=torch.float64))
    return graph.graph_json(), Arrays("model.npz", graph.arrays)


def rounding(graph: Graph, x: float) -> np.ndarray:
    block = graph.blocks[max(graph.blocks)]
    size = {0: np.full(1, abs(x))}
    return errors(block, size, block.size(size)[0])


def test_every_node_says_its_type() -> None:
    graph, arrays = written(two_layers())
    assert [n["type"] for n in graph["nodes"]] == ["float32"] * 3 + ["float64"] * 2 + ["float32"]
    assert [n["kind"] for n in graph["nodes"]] == ["input", "linear", "linear", "take", "linear", "take"]
    assert graph["format"] == 2
    build(graph, arrays)


@pytest.mark.parametrize("found", [None, "float16", "double", 64, ["float32"]])
def test_a_type_that_is_unknown_is_refused(found: object) -> None:
    graph, arrays = written(two_layers())
    graph["nodes"][4]["type"] = found
    with pytest.raises(InvalidCertificate, match="node 4: type: neither float32 nor float64"):
        build(graph, arrays)


def test_a_type_that_is_missing_is_refused_in_files_that_have_types() -> None:
    graph, arrays = written(two_layers())
    del graph["nodes"][2]["type"]
    with pytest.raises(InvalidCertificate, match="node 2: type"):
        build(graph, arrays)


def test_files_without_types_are_of_float32() -> None:
    graph, arrays = written(two_layers())
    graph["format"] = 1
    with pytest.raises(InvalidCertificate, match="type"):
        build(graph, arrays)
    graph["nodes"] = [{k: v for k, v in n.items() if k != "type"} for n in graph["nodes"]]
    assert len({n.form for n in build(graph, arrays).nodes}) == 1


@pytest.mark.parametrize("node", [1, 4])
def test_only_a_take_converts(node: int) -> None:
    graph, arrays = written(two_layers())
    other = {"float32": "float64", "float64": "float32"}
    graph["nodes"][node]["type"] = other[graph["nodes"][node]["type"]]
    with pytest.raises(InvalidCertificate, match="an input of another type"):
        build(graph, arrays)


def test_rounding_is_that_of_each_type() -> None:
    network = Network(two_layers().output.inputs[0])  # in float64: the last cast would pay for the first layers
    found = rounding(build(*written(network)), 0.9)
    points = torch.linspace(0.1, 0.9, 2001)[:, None]
    wrong = in_own_formats(network, points, 0)[network.output].double() - network(points.double())
    worst = wrong.abs().amax(0).numpy()
    assert np.all(worst <= found)
    assert 2e-5 < worst[0] < found[0] < 1e-2
    graph, arrays = written(network)
    for node in graph["nodes"]:
        node["type"] = "float64"
    assert np.all(rounding(build(graph, arrays), 0.9) < 1e-10)


def test_a_conversion_to_float32_costs_one_rounding() -> None:
    image = apply(Input((1,), torch.float64))
    weights = torch.tensor([[1.0], [0.3]]).double()
    network = Network(cast(apply(Linear(weights), image), torch.float32))
    found = rounding(build(*written(network)), 0.9)
    points = torch.linspace(0.1, 0.9, 101, dtype=torch.float64)[:, None]
    wrong = (in_own_formats(network, points, 0)[network.output].double() - network(points)).abs().amax(0).numpy()
    assert np.all(wrong <= found)
    assert np.all(found <= 0.9 * 2.0**-24 * (1 + 1e-6))
    assert found[0] >= 0.5 * wrong[0] > 1e-9


def test_a_value_too_large_for_its_type_is_refused() -> None:
    image = apply(Input((1,), torch.float64))
    large = apply(Affine(scale=torch.tensor(1e39, dtype=torch.float64)), image)
    for network, fits in ((Network(large), True), (Network(cast(large, torch.float32)), False)):
        graph, arrays = written(Network(apply(Linear(torch.ones(2, 1).to(network.output.dtype)), network.output)))
        if fits:
            rounding(build(graph, arrays), 1.0)
            continue
        with pytest.raises(InvalidCertificate, match="may overflow its type"):
            rounding(build(graph, arrays), 1.0)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_proved_is_accepted(seed: int, tmp_path: Path) -> None:
    network = mixed(random_network(seed), seed)
    supported = (Add, Affine, BatchNorm, Clamp, Concat, Leaky, MaxMin, LinearOp)
    if not all(isinstance(n.op, supported) for n in network.operators()):
        pytest.skip("an operator without rules")
    image = random_image(network, seed).to(network.input.dtype)
    certified(network, image, ["0.001", "0.02", "0.2"][seed % 3], tmp_path)
    assert [r.reason for r in check(tmp_path) if not r.accepted] == []


def test_a_narrower_type_in_the_file_is_what_the_checker_follows(tmp_path: Path) -> None:
    """What float64 proves, float32 does not: the margin is 2e-7."""
    image = apply(Input((1,), torch.float64))
    hidden = apply(relu(), apply(Linear(torch.ones(1, 1).double()), image))
    weight, bias = torch.ones(2, 1).double(), torch.tensor([2e-7, 0.0]).double()
    network = Network(apply(Linear(weight, bias), hidden))
    x = torch.full((1, 1), 0.5).double()
    assert certified(network, x, "0.1", tmp_path) == 1
    assert [r.accepted for r in check(tmp_path)] == [True]
    path = tmp_path / "graph.json"
    path.write_text(path.read_text().replace("float64", "float32"))
    content = (tmp_path / "certificate.json").read_text()
    found = json.loads(content)
    found["files"]["graph.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "certificate.json").write_text(json.dumps(found))
    (result,) = check(tmp_path)
    assert not result.accepted
    assert "rule" in result.reason
