"""What a network was read from is asked at every image: where it answers otherwise, nothing is certified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_text import imported, noise
from torch import Tensor, nn

import llcert
from llcert.api import from_torch
from llcert.errors import UnsupportedModel
from llcert.ir import Network, Original

ROW = "float[N,12] x"
DENSE = {"w": noise(12, 5), "b": noise(5), "v": noise(5, 3)}


class Told(Original):
    """Answers of one's own choosing."""

    name = "a stand-in"  # type: ignore[assignment]
    dtype = torch.float32  # type: ignore[assignment]

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        self.answer = answer

    def logits(self, images: Tensor) -> Tensor:
        return self.answer(images)


def tiny() -> Network:
    module = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    for i, part in enumerate(p for p in module.parameters()):
        part.data = noise(*part.shape, seed=i)
    return from_torch(module, torch.zeros(1, 12))


IMAGES = noise(20, 12).abs() / 4
"""The first eight are compared before a run begins."""


def disagreeing(network: Network, change: Callable[[Tensor], None]) -> Network:
    """The network, its original answering otherwise: change: what becomes of the logits of IMAGES."""
    wrong = network(IMAGES).detach()
    change(wrong)

    def answer(images: Tensor) -> Tensor:
        places = [int((IMAGES - image).abs().sum(1).argmin()) for image in images]
        return wrong[places]

    return dataclasses.replace(network, original=Told(answer))


def disputed(network: Network, **question: Any) -> list[int]:
    labels = network(IMAGES).argmax(1)
    report = llcert.certify(network, (IMAGES, labels), 1e-4, **question)
    for sample in report.samples:
        assert (sample.verdict.value == "certified") != sample.disputed
        assert sample.radius is None or (sample.radius > 0) != sample.disputed
    summary = report.to_json()
    assert summary["disputed"] == report.disputed == sum(s.disputed for s in report.samples)
    assert any("by its own runtime" in w for w in report.warnings) == bool(report.disputed)
    return [s.index for s in report.samples if s.disputed]


@pytest.mark.parametrize("assurance", ["estimate", "probabilistic", "deterministic"])
def test_an_image_that_the_original_answers_otherwise_is_not_certified(assurance: str) -> None:
    network = tiny()
    assert disputed(network, assurance=assurance) == []

    def change(logits: Tensor) -> None:
        logits[11] = -logits[11]
        logits[13] = torch.nan
        logits[15, logits[15].argmax()] += 1e-3  # the same class by another margin
        logits[17] += 0.5  # no difference of logits moves, but by rounding

    assert disputed(disagreeing(network, change), assurance=assurance) == [11, 13, 15]


@pytest.mark.parametrize("question", [{"radius": True}, {"stages": ["local"]}, {"stages": ["global"], "batch_size": 3}])
def test_disputed_images_have_no_radius_and_no_verdict(question: dict[str, Any]) -> None:
    network = disagreeing(tiny(), lambda logits: logits[8:].neg_())
    assert disputed(network, **question) == list(range(8, 20))


def test_a_model_that_disagrees_on_the_first_images_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="llcert and a stand-in disagree by"):
        disputed(disagreeing(tiny(), lambda logits: logits[3].neg_()))


@pytest.mark.parametrize("specification", ["top", "target"])
def test_other_claims_are_asked_of_the_original_too(specification: str) -> None:
    """The two largest logits exchanged: the label stays among the two, and the third is never answered."""
    network = tiny()
    order = network(IMAGES).argsort(1, descending=True)

    def change(logits: Tensor) -> None:
        logits[12, order[12, :2]] = logits[12, order[12, :2].flip(0)]

    third = int(order[12, 2])
    labels = torch.where(order[:, 0] == third, order[:, 1], order[:, 0])
    question = {"top": 2} if specification == "top" else {"target": third}
    report = llcert.certify(disagreeing(network, change), (IMAGES, labels), 1e-5, **question)
    assert [s.index for s in report.samples if s.disputed] == [12]


def test_normalisation_is_in_front_of_the_original_as_well(tmp_path: Path) -> None:
    network = imported(tmp_path, "y = Gemm(x, w)", DENSE, image=ROW)
    images = torch.rand(8, 12)
    labels = (((images - 0.3) / 0.2) @ DENSE["w"]).argmax(1)
    report = llcert.certify(network, (images, labels), 1e-4, mean=0.3, std=0.2)
    assert report.disputed == 0
    assert report.certified_accuracy == 1


def test_a_module_is_asked_itself_and_left_in_its_mode() -> None:
    class Trap(nn.Module):
        """Answers otherwise once the world has changed, as nothing that was exported can know."""

        def __init__(self) -> None:
            super().__init__()
            self.dense, self.drop, self.sign = nn.Linear(12, 4), nn.Dropout(), 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.sign * self.drop(self.dense(x))

    module = Trap()
    network = from_torch(module, torch.zeros(1, 12))
    assert "agrees with the module" in network.notes[-1]
    images = torch.rand(5, 12)
    labels = network(images).argmax(1)
    assert llcert.certify(network, (images, labels), 1e-5).disputed == 0
    module.sign = -1.0
    with pytest.raises(UnsupportedModel, match="llcert and the module disagree"):
        llcert.certify(network, (images, labels), 1e-5)
    assert module.training


def test_a_changed_network_is_no_longer_compared() -> None:
    network = tiny()
    assert dataclasses.replace(network, output=network.output, original=None).original is None
    assert Network(network.output).original is None
