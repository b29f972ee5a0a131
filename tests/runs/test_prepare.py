"""Certifications that are made ready: what options, metadata and memory decide, and what their results have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import llcert
from llcert.api import images_and_labels
from llcert.certification import Certifier
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, MaxMin, relu
from llcert.options import Options
from llcert.runs.prepare import prepare


def network(scale: float = 1.0, classes: int = 3) -> Network:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*s, generator=generator) for s in ((6, 4), (classes, 6)))
    hidden = apply(relu(), apply(Linear(scale * first), apply(Input((4,)))), name="hidden")
    return Network(apply(Linear(second), hidden, name="logits"))


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(count, 4, generator=generator)
    return pixels, network()(pixels).argmax(1)


def test_certify_is_one_call() -> None:
    report = llcert.certify(network(), images(), eps=0.01, batch_size=5)
    assert report.complete
    assert report.clean_accuracy == 1.0
    assert report.certified_accuracy is not None
    assert 0 < report.certified_accuracy <= 1
    assert [s.index for s in report.samples] == list(range(12))


def test_metadata_answers_what_is_not_asked() -> None:
    data = images_and_labels(*images())
    named = replace(network(), metadata={"eps": "0.02", "mean": "0.1", "std": "0.5"})
    subject = prepare(named, Options(), dataset=data).subject
    assert (subject.settings.eps, subject.eps_text) == (0.02, "0.02")
    assert subject.normalisation == "(pixel - 0.1) / 0.5 in front of the network; eps is in pixels"
    assert prepare(named, Options(eps="1/4"), dataset=data).subject.settings.eps == 0.25


@pytest.mark.parametrize("metadata", [{"eps": "soon"}, {"eps": "0.1", "mean": "x"}, {"eps": "0.1", "layout": "pile"}])
def test_metadata_of_nonsense_is_refused(metadata: dict[str, str]) -> None:
    data = images_and_labels(*images())
    with pytest.raises(InvalidInput):
        prepare(replace(network(), metadata=metadata), Options(), dataset=data)


def test_more_classes_than_outputs_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 outputs"):
        llcert.certify(network(classes=2), (images()[0], torch.arange(12) % 3), eps=0.1)


def test_pixels_outside_their_range_are_a_warning() -> None:
    pixels, labels = images()
    assert any("outside [0, 1]" in w for w in llcert.certify(network(), (pixels * 3, labels), eps=0.01).warnings)
    assert llcert.certify(network(), (pixels, labels), eps=0.01).warnings == ()


def test_a_softmax_that_was_removed_is_a_warning() -> None:
    ended = replace(network(), notes=("final Softmax removed: certificates are about the logits",))
    assert llcert.certify(ended, images(), eps=0.01).warnings == ended.notes


@pytest.mark.parametrize("stages", ["global,crown-ball", "crown-ball-intermediate"])
@pytest.mark.parametrize("sorts", [False, True])
def test_a_stage_that_does_not_apply_is_noted(stages: str, sorts: bool) -> None:
    node = apply(Input((4,)))
    for activation in (MaxMin() if sorts else relu(), relu()):
        node = apply(activation, apply(Linear(torch.eye(4), torch.zeros(4)), node))
    deep = Network(apply(Linear(torch.eye(4)[:3], torch.zeros(3)), node))
    report = llcert.certify(deep, images(), eps=0.01, stages=stages)
    noted = any("crown-ball-intermediate does not apply" in note for note in report.subject.notes)
    assert noted == (sorts and "intermediate" in stages)


def test_a_network_too_large_for_the_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Certifier:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Certifier, "of", full)
    with pytest.raises(InvalidInput, match="does not fit"):
        llcert.certify(network(), images(), eps=0.01)
