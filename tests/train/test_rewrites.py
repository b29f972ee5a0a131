"""Surgery: the same function where thresholds are out of reach, thresholds by sorting, batch norm folded away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from clipping import (
    IMAGE,
    NETWORKS,
    ZERO,
    activations,
    around,
    bounds,
    conv,
    dense,
    pictures,
    value,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import labels
from random_graphs import random_network
from torch import Tensor

import llcert
from llcert.errors import InvalidInput
from llcert.ir import Activation, Input, Network, Node, Op, apply, topological
from llcert.ops import Clamp, Conv, Leaky, MaxMin, Tanh, relu
from llcert_train.rewrites import clipped, folded, with_maxmin

PIXELS = 32


def entering(network: Network, images: Tensor) -> dict[int, Tensor]:
    """What enters each activation, by its number in order."""
    values: dict[Node, Tensor] = {network.input: images}
    for node in network.operators():
        values[node] = node.op(*(values[i] for i in node.inputs))
    return {i: values[n.inputs[0]] for i, n in enumerate(activations(network))}


def clip(network: Network, images: Tensor, quantile: float = 1.0, *, per_channel: bool = False) -> Network:
    return clipped(network, [images], quantile=quantile, per_channel=per_channel)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSameFunction:
    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_to_the_last_bit_on_the_images_it_saw(self, name: str, per_channel: bool) -> None:
        network = NETWORKS[name]()
        found = clip(network, pictures(), per_channel=per_channel)
        assert torch.equal(value(found, pictures()), value(network, pictures()))

    @pytest.mark.parametrize("per_channel", [False, True])
    def test_on_random_graphs(self, per_channel: bool) -> None:
        count = 0
        for seed in range(60):
            network = random_network(seed)
            images = torch.rand(
                7, *network.input.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            if any(isinstance(n.op, MaxMin) or "ReLU" in n.op.label[:4] for n in activations(network)):
                found = clip(network, images, per_channel=per_channel)
                assert torch.equal(value(found, images), value(network, images)), seed
                count += 1
        assert count > 20

    @pytest.mark.parametrize("name", ["relu", "maxmin", "residual"])
    def test_another_one_where_thresholds_bind(self, name: str) -> None:
        network = NETWORKS[name]()
        found = clip(network, pictures(), 0.5)
        assert not torch.equal(value(found, pictures()), value(network, pictures()))
        assert not torch.equal(value(clip(network, pictures()), 50 * pictures()), value(network, 50 * pictures()))

    @pytest.mark.parametrize("name", NETWORKS)
    def test_all_else_stays(self, name: str) -> None:
        network = NETWORKS[name]()
        found = clip(network, pictures())
        assert [(n.name, n.shape, type(n.op)) for n in topological(found.output)] == [
            (n.name, n.shape, type(n.op)) for n in topological(network.output)
        ]
        same = ("input_name", "output_name", "metadata", "notes", "source")
        assert all(getattr(found, f) == getattr(network, f) for f in same)
        for before, after in zip(network.operators(), found.operators(), strict=True):
            if not isinstance(before.op, Activation):
                assert before.op is after.op

    def test_the_source_is_not_touched(self) -> None:
        network = NETWORKS["relu-theta"]()
        before = value(network, pictures())
        found = clip(network, pictures())
        with torch.no_grad():
            for node in activations(found):
                node.op.high.zero_()
        assert torch.equal(value(network, pictures()), before)
        assert not any(t.requires_grad for n in network.operators() for t in n.op.tensors().values())


def by_sorting(values: Tensor, quantile: float) -> Tensor:
    """The value of each neuron that a share of `1 - quantile` of the images is above, the small ones raised."""
    rank = int((1 - quantile) * len(values))
    top = torch.tensor([sorted(column, reverse=True)[rank] for column in values.flatten(1).T.tolist()])
    alive = sorted(t for t in top.tolist() if t > 0)
    least = 0.1 * alive[(len(alive) - 1) // 2] if alive else 1.0
    return top.clamp(min=least).to(values.dtype).reshape(values.shape[1:])


def thresholds(node: Node) -> list[Tensor]:
    """Of a ReLU its threshold, of a MaxMin the upper one and minus the lower one."""
    op = node.op
    return [op.high.detach()] if isinstance(op, Clamp) else [op.high.detach(), -op.low.detach()]


def outputs(op: Op, z: Tensor) -> list[Tensor]:
    """Of a ReLU what enters it, of a MaxMin the maxima and minus the minima."""
    if isinstance(op, Clamp):
        return [z]
    a, b = op.split(z)
    return [torch.maximum(a, b), -torch.minimum(a, b)]


class TestThresholds:
    @pytest.mark.parametrize("quantile", [0.5, 0.75, 0.9, 0.96, 0.999, 1.0])
    @pytest.mark.parametrize("name", ["relu", "maxmin", "maxmin pairs", "maxmin of columns", "residual"])
    def test_they_are_quantiles(self, name: str, quantile: float) -> None:
        network, images = NETWORKS[name](), pictures(count=64)
        found = clip(network, images, quantile)
        seen = entering(network, images)
        for number, node in enumerate(activations(found)):
            expected = [by_sorting(z, quantile) for z in outputs(node.op, seen[number])]
            for own, wanted in zip(thresholds(node), expected, strict=True):
                torch.testing.assert_close(own, wanted, rtol=1e-6, atol=0)

    @given(quantile=st.floats(0.5, 1), count=st.integers(1, 50))
    @settings(max_examples=30, deadline=None)
    def test_no_more_images_than_that_are_above(self, quantile: float, count: int) -> None:
        network, images = NETWORKS["relu"](), pictures(count=count)
        found = clip(network, images, quantile)
        for number, node in enumerate(activations(found)):
            above = (entering(network, images)[number] > node.op.high).sum(0)
            assert (above <= (1 - quantile) * count).all()

    def test_batches_of_any_size_give_the_same(self) -> None:
        network, images = NETWORKS["maxmin"](), pictures(count=50)
        whole = clip(network, images, 0.9)
        for sizes in ([25, 25], [1] * 50, [3, 40, 7]):
            parts = clipped(network, images.split(sizes), quantile=0.9, per_channel=False)
            for a, b in zip(activations(whole), activations(parts), strict=True):
                for one, other in zip(thresholds(a), thresholds(b), strict=True):
                    torch.testing.assert_close(one, other)

    def test_a_stream_is_read_once(self) -> None:
        network, images = NETWORKS["relu"](), pictures(count=20)
        found = clipped(network, iter(images.split(5)), quantile=1.0, per_channel=False)
        for a, b in zip(activations(found), activations(clip(network, images)), strict=True):
            torch.testing.assert_close(a.op.high, b.op.high)

    @pytest.mark.parametrize("name", ["relu", "maxmin", "residual"])
    def test_one_a_channel_is_the_largest_of_its_neurons(self, name: str) -> None:
        network, images = NETWORKS[name](), pictures(count=40)
        each, together = clip(network, images, 0.9), clip(network, images, 0.9, per_channel=True)
        for one, all_of_it in zip(activations(each), activations(together), strict=True):
            for own, shared in zip(thresholds(one), thresholds(all_of_it), strict=True):
                assert shared.shape == (own.shape[0], *[1] * (own.ndim - 1))
                for channel in range(own.shape[0]):
                    assert float(shared[channel]) == float(own[channel].max())

    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_they_can_be_learned(self, name: str, per_channel: bool) -> None:
        network = NETWORKS[name]()
        found = clip(network, pictures(), 0.9, per_channel=per_channel)
        learned = [t for n in activations(found) for t in n.op.tensors().values() if t.requires_grad]
        assert all(t.is_leaf and t.is_contiguous() for t in learned)
        chosen = [n for n in activations(found) if isinstance(n.op, MaxMin) or n.op.is_relu]
        assert len(learned) == sum(2 if isinstance(n.op, MaxMin) else 1 for n in chosen)
        if not per_channel:
            for node in chosen:
                assert all(
                    t.shape == outputs(node.op, torch.empty(1, *node.shape))[0][0].shape for t in thresholds(node)
                )

    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("shape", [(), (4,), (4, 1), (4, 1, 1), (1, 4, 1), (4, 4, 4)])
    def test_thresholds_of_relus_that_are_there_stay(self, shape: tuple[int, ...], per_channel: bool) -> None:
        own = bounds(*shape)
        found = clip(around(Clamp(ZERO, own), relu()), pictures(), 0.5, per_channel=per_channel)
        assert torch.equal(activations(found)[0].op.high.detach().expand(4, 4, 4), own.expand(4, 4, 4))

    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("shape", [(), (4,), (2, 1), (4, 1, 1), (4, 2, 4)])
    def test_thresholds_of_maxmin_that_are_there_stay(self, shape: tuple[int, ...], per_channel: bool) -> None:
        """Pairs of rows: maxima and minima are `[4, 2, 4]`. What the other side gets does not change."""
        own, free = bounds(*shape), clip(around(MaxMin(1), relu()), pictures(), 0.5, per_channel=per_channel)
        for high, low in ((own, None), (None, -own), (own, -own)):
            found = clip(around(MaxMin(1, False, high, low), relu()), pictures(), 0.5, per_channel=per_channel)
            op, without = activations(found)[0].op, activations(free)[0].op
            assert torch.equal(
                op.high.detach().expand(4, 2, 4), (without.high if high is None else high).expand(4, 2, 4)
            )
            assert torch.equal(op.low.detach().expand(4, 2, 4), (without.low if low is None else low).expand(4, 2, 4))

    @pytest.mark.parametrize("per_channel", [False, True])
    def test_dead_neurons_can_wake_up(self, per_channel: bool) -> None:
        network = NETWORKS["relu"]()
        first = next(n for n in network.operators() if isinstance(n.op, Conv))
        first.op.bias[1] = -100.0  # a whole channel
        found = clip(network, pictures(), per_channel=per_channel)
        inner = activations(found)[0].op.high.detach()
        assert (inner > 0).all()
        assert (inner[1] <= inner.max() / 2).all()
        assert torch.equal(value(found, pictures()), value(network, pictures()))

    def test_where_all_are_dead(self) -> None:
        network = NETWORKS["relu"]()
        next(n for n in network.operators() if isinstance(n.op, Conv)).op.bias[:] = -100.0
        assert torch.equal(activations(clip(network, pictures()))[0].op.high.detach(), torch.ones(4, 4, 4))

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_maxima_below_zero_and_minima_above(self, sign: float) -> None:
        """Both thresholds of a MaxMin leave zero inside, and stay out of reach."""
        network = NETWORKS["maxmin"]()
        next(n for n in network.operators() if isinstance(n.op, Conv)).op.bias[:] = sign * 100.0
        found = clip(network, pictures())
        op = activations(found)[0].op
        assert (op.high.detach() > 0).all()
        assert (op.low.detach() < 0).all()
        assert torch.equal(value(found, pictures()), value(network, pictures()))


class TestNothingToClip:
    @pytest.mark.parametrize("op", [Tanh(), Leaky(torch.tensor(0.1)), Clamp(torch.tensor(-1.0), torch.tensor(1.0))])
    def test_is_refused(self, op: Op) -> None:
        message = refusal(lambda: clip(around(op), pictures()))
        assert message.startswith("net:")
        assert "--activation keep" in message

    def test_networks_without_a_name(self) -> None:
        bare = Network(dense(3, apply(Input(IMAGE)), 0))
        assert refusal(lambda: clip(bare, pictures())).startswith("the network:")

    def test_logits_are_no_neurons(self) -> None:
        """A final ReLU stays: a threshold on logits, or logits in pairs, would make another classifier."""
        ends = dataclasses.replace(around(relu(), relu()), output=apply(relu(), around(relu(), relu()).output))
        found = clip(ends, pictures(), 0.5)
        assert labels(found.output)[-2:] == ["Linear", "ReLU"]
        even = Network(apply(relu(), dense(4, apply(relu(), dense(6, apply(Input(IMAGE)), 1)), 3)))
        assert labels(with_maxmin(even).output) == ["Reshape", "Linear", "MaxMin", "Linear", "ReLU"]
        only = Network(apply(relu(), dense(4, apply(Input(IMAGE)), 1)))
        assert "no ReLU" in refusal(lambda: clip(only, pictures()))


class TestMaxMin:
    @pytest.mark.parametrize("name", ["relu", "relu6", "relu-theta", "residual", "beside others"])
    def test_each_relu_becomes_one_of_channel_halves(self, name: str) -> None:
        network = NETWORKS[name]()
        found = with_maxmin(network)
        for before, after in zip(topological(network.output), topological(found.output), strict=True):
            assert (after.name, after.shape) == (before.name, before.shape)
            swapped = "ReLU" in before.op.label
            assert after.op == MaxMin() if swapped else after.op is before.op
        assert any("MaxMin" in label for label in labels(found.output))
        assert not any("ReLU" in label for label in labels(found.output))

    def test_computes_maxima_and_minima(self) -> None:
        found = with_maxmin(around(relu()))
        z = entering(found, pictures())[0]
        expected = torch.cat((torch.maximum(z[:, :2], z[:, 2:]), torch.minimum(z[:, :2], z[:, 2:])), 1)
        assert torch.equal(activations(found)[0].op(z), expected)

    def test_those_that_are_there_stay(self) -> None:
        network = NETWORKS["clipped maxmin"]()
        assert [n.op for n in with_maxmin(network).operators()] == [n.op for n in network.operators()]

    @pytest.mark.parametrize(("width", "name", "told"), [(5, "hidden", "hidden"), (7, "", "a ReLU")])
    def test_odd_widths_are_refused(self, width: int, name: str, told: str) -> None:
        node = apply(relu(), dense(width, apply(Input(IMAGE)), 1), name=name)
        message = refusal(lambda: with_maxmin(Network(dense(3, node, 3))))
        assert told in message
        assert f"({width},)" in message
        assert "cannot be paired; use --activation relu-theta" in message

    def test_odd_channels_are_refused_and_odd_sizes_are_not(self) -> None:
        def network(channels: int, size: int) -> Network:
            return Network(dense(3, apply(relu(), conv(channels, apply(Input((2, size, size))), 1)), 3))

        assert "(3, 4, 4)" in refusal(lambda: with_maxmin(network(3, 4)))
        assert "MaxMin" in labels(with_maxmin(network(4, 5)).output)

    def test_then_gets_thresholds(self) -> None:
        network = with_maxmin(NETWORKS["residual"]())
        found = clip(network, pictures())
        assert torch.equal(value(found, pictures()), value(network, pictures()))
        assert labels(found.output).count("clipped MaxMin") == 3


@pytest.mark.parametrize("surgery", ["clipped", "clipped by channel", "maxmin", "folded"])
@pytest.mark.parametrize("name", ["relu", "relu6", "relu-theta", "maxmin", "maxmin pairs", "beside others", "residual"])
def test_what_comes_out_can_be_written_and_read(name: str, surgery: str, tmp_path: Path) -> None:
    """The file computes the same in onnxruntime, and reads as the same operators, which then can be clipped again."""
    network = NETWORKS[name]()
    if surgery == "maxmin":
        network = with_maxmin(network)
    if surgery == "folded":
        network = folded(network)
    network = clip(network, pictures(), 0.9, per_channel=surgery == "clipped by channel")
    llcert.save(network, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run([network.output_name], {network.input_name: pictures().numpy()})
    np.testing.assert_allclose(found, value(network, pictures()).numpy(), rtol=1e-4, atol=1e-5)
    again = llcert.load(tmp_path / "net.onnx")
    assert labels(again.output) == labels(network.output)
    assert (again.input_name, again.output_name) == (network.input_name, network.output_name)
    assert dict(again.metadata) == dict(network.metadata)
    assert any("agrees with onnxruntime" in note for note in again.notes)
    torch.testing.assert_close(value(again, pictures()), value(network, pictures()), rtol=1e-5, atol=1e-5)
    twice = clip(again, pictures(), 0.5, per_channel=surgery == "clipped by channel")
    assert torch.equal(value(twice, pictures()), value(again, pictures()))
