"""All passes together on whole networks."""

from __future__ import annotations

import pytest
import torch
from pass_graphs import image, labels
from random_graphs import random_network

from llcert.errors import UnsupportedModel
from llcert.ir import apply, evaluate
from llcert.ops import Affine, BatchNorm, Clamp, Conv, Linear, Reshape, Transpose, relu
from llcert.passes import canonicalise, check_legal


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_keep_their_function_and_stay_canonical(seed: int) -> None:
    network = random_network(seed)
    found = canonicalise(network.output)
    check_legal(found, "network")
    images = torch.randn(4, *network.input.shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(found, images), evaluate(network.output, images), atol=1e-9, rtol=1e-9)
    assert canonicalise(found) is found


def test_weights_are_never_multiplied_out() -> None:
    convolution = Conv(torch.rand(2, 1, 3, 3))
    norm = BatchNorm(*(torch.rand(2) + 0.5 for _ in range(4)))
    scaled = apply(Affine(torch.tensor(2.0)), apply(norm, apply(convolution, image(1, 5, 5))))
    found = canonicalise(apply(Linear(torch.rand(3, 18)), apply(Reshape((18,)), scaled)))
    assert labels(found) == ["Conv", "BatchNorm", "Affine", "Reshape", "Linear"]


class Below(Clamp):
    """An operator of a user, another function than the one it is derived from."""

    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        return -super().__call__(*values)


def test_an_operator_that_is_derived_from_another_is_not_taken_for_it() -> None:
    """Two ReLUs are one; of these two rewrites would leave one, of another sign."""
    twice = apply(Below(torch.zeros(())), apply(Below(torch.zeros(())), image(3)), name="odd")
    with pytest.raises(UnsupportedModel, match="Below without a name: is derived from Clamp"):
        canonicalise(twice)


def test_layout_changes_of_a_converted_network_vanish() -> None:
    """Convolutions with a change of layout before and behind each, and biases added in between, as tf2onnx writes."""
    node = image(6, 6, 1)
    for channels_in, channels in ((1, 2), (2, 3)):
        node = apply(Conv(torch.rand(channels, channels_in, 3, 3)), apply(Transpose((2, 0, 1)), node))
        node = apply(relu(), apply(Affine(shift=torch.rand(channels)), apply(Transpose((1, 2, 0)), node)))
    found = labels(canonicalise(apply(Reshape((12,)), node)))
    assert found.count("Transpose") == 1, "the one that flattening in their order needs"
    assert found[0] == "Reshape"
