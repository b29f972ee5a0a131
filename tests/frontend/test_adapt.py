"""Layout and normalisation in front of a network: told from shapes, or given; refused where they do not fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from onnx_text import noise, operators
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.frontend.adapt import adapt, behind, preprocessing
from llcert.ir import Input, Network, Shape, apply, evaluate
from llcert.ops import Linear, Reshape

CHW = (3, 4, 5)


def network(shape: Shape) -> Network:
    flat = apply(Reshape((60,)), apply(Input(shape), name="x"))
    return Network(apply(Linear(noise(2, 60)), flat))


def images() -> Tensor:
    return noise(2, *CHW).sigmoid()


@pytest.mark.parametrize(
    ("shape", "layout", "arranged"),
    [
        ((3, 4, 5), None, lambda x: x),
        ((3, 4, 5), "nchw", lambda x: x),
        ((4, 5, 3), None, lambda x: x.permute(0, 2, 3, 1)),
        ((4, 5, 3), "NHWC", lambda x: x.permute(0, 2, 3, 1)),
        ((60,), None, lambda x: x),
        ((60, 1), None, lambda x: x),
        ((1, 60), "flat", lambda x: x),
        ((3, 4, 5), "flat", lambda x: x),
        ((1, 3, 4, 5), None, lambda x: x),
        ((1, 4, 5, 3), None, lambda x: x.permute(0, 2, 3, 1)),
    ],
)
def test_the_network_sees_what_it_wants(shape: Shape, layout: str | None, arranged, tmp_path) -> None:  # type: ignore[no-untyped-def]
    inner = network(shape)
    adapted, notes = adapt(inner, CHW, layout=layout)
    assert adapted.input.shape == CHW
    assert torch.equal(adapted(images()), inner(arranged(images()).reshape(2, *shape)))
    assert ("told from the shapes" in "".join(notes)) == (layout is None and shape != CHW)


def test_one_channel_may_be_missing() -> None:
    inner = Network(apply(Linear(noise(2, 5)), apply(Input((4, 5)), name="x")))
    adapted, _ = adapt(inner, (1, 4, 5))
    assert torch.equal(adapted(noise(2, 1, 4, 5)), inner(noise(2, 4, 5)))


def test_points_of_a_plane_need_nothing() -> None:
    inner = Network(apply(Linear(noise(2, 2)), apply(Input((2,)), name="x")))
    assert adapt(inner, (2,)) == (inner, ())


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.25]), ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), ([0.5], None), (None, [2.0, 3.0, 4.0])]
)
def test_normalisation_is_in_pixels_and_in_front(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    inner = network((4, 5, 3))
    adapted, notes = adapt(inner, CHW, mean=mean, std=std)
    m, s = (torch.tensor(v).reshape(-1, 1, 1) for v in (mean or [0.0], std or [1.0]))
    expected = inner(((images() - m) / s).permute(0, 2, 3, 1))
    assert torch.allclose(adapted(images()), expected, atol=1e-5)
    assert operators(adapted) == "Affine Transpose Reshape Linear"
    assert "eps is in pixels" in notes[0]


def test_no_normalisation_leaves_no_trace() -> None:
    adapted, notes = adapt(network(CHW), CHW, mean=[0.0], std=[1.0])
    assert operators(adapted) == "Reshape Linear"
    assert notes == ()


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((60,), {"layout": "NCHW"}, r"\(3, 4, 5\) do not fit a network that wants \(60,\) under layout NCHW"),
        ((3, 4, 5), {"layout": "NHWC"}, r"\(3, 4, 5\) do not fit a network that wants \(3, 4, 5\) under layout NHWC"),
        ((3, 4, 5), {"layout": "CHWN"}, "choose one of NCHW, NHWC, flat"),
        ((5, 4, 3), {}, r"\(3, 4, 5\) do not fit a network that wants \(5, 4, 3\)"),
        ((60,), {"mean": [0.1, 0.2]}, r"mean has 2 values for images \(3, 4, 5\)"),
        ((60,), {"std": [0.0]}, "std must be positive"),
        ((60,), {"std": [-1.0]}, "std must be positive"),
        ((60,), {"mean": [float("nan")]}, "mean must be finite"),
        ((60,), {"mean": []}, "mean has 0 values"),
    ],
)
def test_what_does_not_fit_is_refused(shape: Shape, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        adapt(network(shape), CHW, **arguments)  # type: ignore[arg-type]


def test_a_front_gives_what_the_file_wants() -> None:
    inner = network((4, 5, 3))
    front, _ = preprocessing(inner, CHW, mean=[0.5])
    assert torch.equal(behind(front, inner)(images()), inner(evaluate(front, images())))
    with pytest.raises(InvalidInput, match="does not fit the network's input"):
        behind(front, network(CHW))
