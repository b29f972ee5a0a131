"""Batch normalisation folded into the layer in front of it, before thresholds are put in."""

from __future__ import annotations

import math

import pytest
import torch
from clipping import (
    IMAGE,
    NETWORKS,
    activations,
    batch_norm,
    conv,
    dense,
    normal,
    pictures,
    value,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import labels

from llcert.ir import Input, Network, Op, apply
from llcert.ops import Add, BatchNorm, Conv, ConvTranspose, Linear, Reshape, relu
from llcert_train.rewrites import folded

STATISTICS = st.builds(
    lambda seed, scale, eps: (seed, scale, eps),
    st.integers(0, 10_000),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([1e-5, 1e-3, 0.5]),
)


def normed(layer: Op, shape: tuple[int, ...], statistics: tuple[int, float, float], dtype: torch.dtype) -> Network:
    """A layer with a random batch norm behind it, and nothing else."""
    seed, scale, eps = statistics
    node = apply(layer.to("cpu", dtype), apply(Input(shape)))
    c = node.shape[0]
    weight, bias, mean = (normal(c, seed=seed + i, dtype=dtype) for i in range(3))
    variance = scale * torch.rand(c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    norm = BatchNorm(weight, bias, mean * scale**0.5, variance, eps, len(node.shape) - 1)
    return Network(apply(Reshape((math.prod(node.shape),)), apply(norm, node)))


LAYERS: dict[str, tuple[Op, tuple[int, ...]]] = {
    "conv": (Conv(normal(4, 2, 3, 3), normal(4), (1, 1), (1, 1)), (2, 5, 5)),
    "conv without bias": (Conv(normal(4, 2, 3, 3), None, (2, 2)), (2, 5, 5)),
    "conv of groups": (Conv(normal(4, 1, 3, 3), normal(4), groups=2), (2, 5, 5)),
    "conv 1d": (Conv(normal(4, 2, 3), normal(4), (1,), (1,), (1,)), (2, 7)),
    "linear": (Linear(normal(4, 6), normal(4)), (6,)),
    "linear without bias": (Linear(normal(4, 6)), (6,)),
}


class TestFolded:
    @given(name=st.sampled_from(sorted(LAYERS)), statistics=STATISTICS)
    @settings(max_examples=60, deadline=None)
    def test_same_function(self, name: str, statistics: tuple[int, float, float]) -> None:
        layer, shape = LAYERS[name]
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            network = normed(layer, shape, statistics, dtype)
            found = folded(network)
            assert labels(found.output) == [layer.label, "Reshape"]
            x = normal(9, *shape, seed=statistics[0], dtype=dtype)
            expected = value(network, x)
            largest = (network.output.inputs[0].op.scale.abs() * layer.to("cpu", dtype)(x).abs().max()).max()
            assert ((value(found, x) - expected).abs() <= tolerance * (expected.abs() + largest + 1)).all()

    def test_residual_networks_keep_their_shape(self) -> None:
        network = NETWORKS["residual"]()
        found = folded(network)
        assert labels(found.output) == [label for label in labels(network.output) if label != "BatchNorm"]
        torch.testing.assert_close(value(found, pictures()), value(network, pictures()), atol=1e-5, rtol=1e-5)
        assert [n.name for n in activations(found)] == ["stem", "inside", "joined"]

    @pytest.mark.parametrize("names", [("layer", "layer"), ("", "norm")])
    def test_names(self, names: tuple[str, str]) -> None:
        node = batch_norm(conv(4, apply(Input(IMAGE), name="pixels"), 1, names[0]))
        network = Network(dense(3, node, 5), "pixels", "scores", {"eps": "0.5"}, ("note",), "net")
        found = folded(network)
        assert next(found.operators()).name == names[1]
        same = ("input_name", "output_name", "metadata", "notes", "source")
        assert all(getattr(found, f) == getattr(network, f) for f in same)
        assert (found.input.name, found.input.shape) == ("pixels", IMAGE)

    def test_a_layer_that_others_read_keeps_its_norm_apart(self) -> None:
        layer = conv(4, apply(Input(IMAGE)), 1)
        joined = apply(Add(), batch_norm(layer), layer)
        network = Network(dense(3, joined, 5))
        found = folded(network)
        assert labels(found.output) == labels(network.output)
        assert torch.equal(value(found, pictures()), value(network, pictures()))

    def test_a_layer_with_two_norms_keeps_both(self) -> None:
        layer = conv(4, apply(Input(IMAGE)), 1)
        network = Network(dense(3, apply(Add(), batch_norm(layer, 1), batch_norm(layer, 10)), 5))
        assert labels(folded(network).output).count("BatchNorm") == 2
        assert torch.equal(value(folded(network), pictures()), value(network, pictures()))

    def test_a_norm_that_is_read_twice_is_folded_once(self) -> None:
        norm = batch_norm(conv(4, apply(Input(IMAGE)), 1))
        network = Network(dense(3, apply(Add(), apply(relu(), norm), norm), 5))
        found = folded(network)
        assert sorted(labels(found.output)) == ["Add", "Conv", "Linear", "ReLU", "Reshape"]
        torch.testing.assert_close(value(found, pictures()), value(network, pictures()), atol=1e-5, rtol=1e-5)

    def test_two_in_a_row_are_both_folded(self) -> None:
        network = Network(dense(3, batch_norm(batch_norm(conv(4, apply(Input(IMAGE)), 1), 1), 10), 5))
        found = folded(network)
        assert "BatchNorm" not in labels(found.output)
        torch.testing.assert_close(value(found, pictures()), value(network, pictures()), atol=1e-5, rtol=1e-5)

    def test_norms_behind_anything_else_stay(self) -> None:
        image = apply(Input(IMAGE))
        rows = apply(Linear(normal(5, 4)), image)  # its channels are not those of the norm
        for node in (
            image,
            apply(relu(), conv(4, image, 1)),
            apply(ConvTranspose(normal(2, 3, 2, 2)), image),
            rows,
        ):
            network = Network(dense(3, batch_norm(node), 5))
            found = folded(network)
            assert labels(found.output) == labels(network.output)
            assert torch.equal(value(found, pictures()), value(network, pictures()))

    def test_a_norm_at_the_end(self) -> None:
        network = Network(batch_norm(dense(3, apply(Input(IMAGE)), 1)))
        found = folded(network)
        assert labels(found.output) == ["Reshape", "Linear"]
        torch.testing.assert_close(value(found, pictures()), value(network, pictures()), atol=1e-5, rtol=1e-5)

    def test_the_source_is_not_touched(self) -> None:
        network = NETWORKS["residual"]()
        before = value(network, pictures())
        folded(network)
        assert torch.equal(value(network, pictures()), before)
        assert labels(network.output).count("BatchNorm") == 3
