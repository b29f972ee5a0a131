"""What stands behind the logits answers as they do, in float32 too, or nothing is certified."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_text import imported, noise
from torch import Tensor

import llcert
from llcert.certification.heads import rounding, told_apart
from llcert.certification.specification import FIRST, Top
from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.ir import Op
from llcert.ops import Head, Sigmoid, relu

HEADS = {
    "Sigmoid": (Sigmoid(), torch.sigmoid),
    "Softmax": (Head("Softmax"), lambda z: z.softmax(1)),
    "LogSoftmax": (Head("LogSoftmax"), lambda z: z.log_softmax(1)),
}


def logits(count: int, classes: int, seed: int) -> Tensor:
    """Logits in float32 of many sizes, many of which nearly tie."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, 1, generator=generator) * 10 ** (4 * torch.rand(count, 1, generator=generator) - 2)
    apart = torch.randn(count, classes, generator=generator) * 10 ** (9 * torch.rand(count, 1, generator=generator) - 7)
    return base + apart


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("specification", [FIRST, Top(3)])
def test_what_is_told_apart_is_apart_in_float32(kind: str, specification: Top) -> None:
    op, answer = HEADS[kind]
    z = logits(20000, 6, seed=1)
    references = z.topk(specification.count).indices[:, -1]
    wide = z.double()
    margins = wide.gather(1, references[:, None]) - wide
    margins = margins.scatter(1, references[:, None], torch.inf)
    region = Region(wide, wide, wide, torch.zeros(len(z)))
    kept = told_apart(((op,),), margins, references, region, first=specification.spare == 0)
    proved = specification.margin(kept, references, 6) > 0
    assert 0.1 < float(proved.float().mean()) < 1
    assert bool(specification.holds(answer(z), references, 6)[proved].all())


@pytest.mark.parametrize("low", [-30.0, -3.0, 0.0, 4.0])
def test_a_sigmoid_tells_apart_what_it_does_anywhere_in_the_box(low: float) -> None:
    """The reference's logit may be anything in its box, the rival's anything that is a margin below."""
    boxes = torch.tensor([[low, -1e3]], dtype=torch.float64), torch.tensor([[low + 7, 1e3]], dtype=torch.float64)
    region = Region(boxes[0], *boxes, torch.zeros(1))
    own = torch.linspace(low, low + 7, 1001)
    for margin in (1e-6, 1e-3, 0.1, 1.0, 10.0):
        margins = torch.tensor([[torch.inf, margin]], dtype=torch.float64)
        kept = bool(told_apart(((Sigmoid(),),), margins, torch.tensor([0]), region, first=True)[0, 1] > 0)
        apart = own.sigmoid() > (own - margin).sigmoid()
        assert bool(apart.all()) or not kept
        assert kept or margin < 0.1 or low in (-30.0, 4.0)


def test_a_saturated_sigmoid_certifies_nothing_in_float32(tmp_path: Path) -> None:
    """Its outputs tie at one, where the answer is the first class and not the one with the largest logit."""
    body = "h = MatMul(x, w) z = Add(h, b) y = Sigmoid(z)"
    weights = {"w": noise(12, 3) / 100, "b": torch.tensor([20.0, 25.0, 0.0])}
    network = imported(tmp_path, body, weights, image="float[N,12] x")
    images, labels = noise(20, 12), torch.ones(20, dtype=torch.long)
    assert llcert.certify(network, (images, labels), 0.1).certified_accuracy == 0
    assert llcert.certify(network, (images, labels), 0.1, semantics="real").certified_accuracy == 1
    calm = imported(tmp_path, body, {**weights, "b": torch.tensor([-1.0, 1.0, 0.0])}, image="float[N,12] x")
    assert llcert.certify(calm, (images, labels), 0.1).certified_accuracy == 1


def test_two_roundings_behind_each_other_are_refused(tmp_path: Path) -> None:
    body = "h = MatMul(x, w) z = Sigmoid(h) y = Softmax(z)"
    network = imported(tmp_path, body, {"w": noise(12, 3)}, image="float[N,12] x")
    data = noise(4, 12), torch.zeros(4, dtype=torch.long)
    with pytest.raises(UnsupportedModel, match="Sigmoid and Softmax behind the logits"):
        llcert.certify(network, data, 0.1)
    llcert.certify(network, data, 0.1, semantics="real", radius=True)


class Tempered(Head):
    """A head of a user."""


@pytest.mark.parametrize("op", [Tempered("Softmax"), Head("Sparsemax"), relu()], ids=lambda op: type(op).__name__)
def test_a_head_whose_rounding_nobody_knows_is_refused(op: Op) -> None:
    assert rounding((Head("Softmax"), Head("ArgMax"))) == Head("Softmax")
    with pytest.raises(UnsupportedModel, match=f"{op.label} behind the logits: what it rounds is unknown"):
        rounding((op,))


@pytest.mark.parametrize("head", ["Softmax", "LogSoftmax"])
def test_behind_a_softmax_no_radius_is_unbounded_while_others_may_leave_the_label_behind(
    head: str, tmp_path: Path
) -> None:
    """A constant logit stays in the top 2, and its exponential vanishes beside a large one."""
    weights = {"w": torch.tensor([[0.0, 0.0, 1000.0]] * 4), "b": torch.tensor([0.0, 1.0, -1000.0])}
    body = f"h = MatMul(x, w) z = Add(h, b) y = {head}(z)"
    network = imported(tmp_path, body, weights, image="float[N,4] x")
    data = torch.full((1, 4), 0.1), torch.tensor([1])
    (sample,) = llcert.certify(network, data, 0.01, top=2, radius=True).samples
    assert sample.radius is not None
    assert sample.radius < 10
