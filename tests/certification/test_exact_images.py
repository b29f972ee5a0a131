"""The ball is around the image as it was given, whatever precision that takes, and every point of it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from certificates import evidence
from torch import Tensor

import llcert
from llcert.certification import Settings, Verdict
from llcert.data import load_dataset
from llcert.ir import Input, Network, apply
from llcert.ops import Affine, Linear
from llcert.reporting import Report


def above(threshold: float, dtype: torch.dtype) -> Network:
    """Of two classes, the first where the pixel is above the threshold."""
    weight, bias = torch.tensor([[1.0], [0.0]], dtype=dtype), torch.tensor([-threshold, 0.0], dtype=dtype)
    return Network(apply(Linear(weight, bias), apply(Input((1,), dtype))))


def asked(network: Network, data: object, eps: str, **question: object) -> Report:
    return llcert.certify(network, data, eps, **question)  # type: ignore[arg-type]


def pixel(value: float) -> tuple[Tensor, Tensor]:
    return torch.tensor([[value]], dtype=torch.float64), torch.tensor([0])


def archive(folder: Path, value: float) -> str:
    np.savez(folder / "a.npz", x=np.array([[value]]), y=np.array([0]))
    return str(folder / "a.npz")


@pytest.mark.parametrize("assurance", ["deterministic", "probabilistic", "estimate"])
def test_images_of_float64_are_not_rounded(tmp_path: Path, assurance: str) -> None:
    """Float32 would move this pixel by 1.5e-9, over the first threshold and away from the second."""
    for data in (pixel(0.1), archive(tmp_path, 0.1)):
        wrong, right, near = (above(0.1 + d, torch.float64) for d in (5e-10, -5e-10, -5e-10))
        assert asked(wrong, data, "1e-10", assurance=assurance).count(Verdict.MISCLASSIFIED) == 1
        assert asked(right, data, "4.9e-10", assurance=assurance).count(Verdict.CERTIFIED) == 1
        assert asked(near, data, "5.1e-10", assurance=assurance).count(Verdict.CERTIFIED) == 0


def test_what_a_network_of_float32_makes_of_a_point_counts() -> None:
    """A pixel just above the middle of two neighbours a < b of float32: points of its ball are rounded to both.

    In real numbers all of them lie above a; those that are rounded to a are not above it.
    """
    a = np.float32(0.1)
    middle = (float(a) + float(np.nextafter(a, np.float32(1)))) / 2
    network, data = above(float(a), torch.float32), pixel(middle + 1e-11)
    assert np.float32(middle + 1e-11 - 9e-11) == a
    assert asked(network, data, "1e-10", semantics="real").count(Verdict.CERTIFIED) == 1
    for stages in (["global"], ["local"], ["crown-ball"], ["global", "local", "crown-ball", "crown-ball-intermediate"]):
        assert asked(network, data, "1e-10", stages=stages).count(Verdict.CERTIFIED) == 0
    wider = above(float(a) - 3e-7, torch.float32)
    assert asked(wider, data, "1e-10").count(Verdict.CERTIFIED) == 1


def test_bytes_are_the_nearest_float64_to_their_255th(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[26]], np.uint8), y=np.array([0]))
    data = str(tmp_path / "a.npz")
    (batch,) = load_dataset(data).batches(range(1), 1)
    assert batch.images.tolist() == [[26 / 255]]
    apart = abs(26 / 255 - float(np.float32(26 / 255)))
    assert apart > 1e-9
    for shift, certified in ((-1e-9, 1), (1e-9, 0)):
        assert asked(above(26 / 255 + shift, torch.float64), data, "9e-10").count(Verdict.CERTIFIED) == certified


def test_certificates_hold_the_image_as_it_was_given() -> None:
    images = torch.tensor([[0.1], [0.5]], dtype=torch.float64)
    settings = Settings(1e-3, stages=("global",))
    _, found = evidence(above(0.0, torch.float32), settings, images, torch.tensor([0, 0]))
    assert [found[i].arrays["x"].tolist() for i in (0, 1)] == [[0.1], [0.5]]


def test_an_attack_stays_in_the_ball_of_the_image_as_it_was_given() -> None:
    """Float32 rounds this pixel upwards by more than eps: no number of float32 is in the ball."""
    network, (image, label) = above(0.1 + 1e-9, torch.float32), pixel(0.1)
    assert float(image.float()) > 0.1 + 1e-9
    report = asked(network, (image, label), "1e-10", stages=["attack"])
    assert report.count(Verdict.ATTACKED) == 0


def test_images_of_float32_are_what_they_were() -> None:
    """Exact in float32, given in float64: bit for bit the same answer."""
    torch.manual_seed(0)
    hidden = apply(Affine(torch.tensor(2.0), torch.tensor(-0.5)), apply(Input((6,))))
    network = Network(apply(Linear(torch.randn(3, 6)), hidden))
    images = torch.rand(12, 6)
    labels = network(images).argmax(1)
    one, two = (asked(network, (x, labels), "0.1").samples for x in (images, images.double()))
    assert [(s.verdict, s.margin) for s in one] == [(s.verdict, s.margin) for s in two]
