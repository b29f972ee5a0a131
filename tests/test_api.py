"""What the functions of the package's front make of what they are handed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import llcert
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear

PIXELS, LABELS = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.fixture
def network() -> Network:
    output = apply(Linear(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])), apply(Input((3,))))
    return Network(output, metadata={"data": "digits", "eps": "0.1"})


@pytest.mark.parametrize("data", [PIXELS, 7, (PIXELS,), (PIXELS, LABELS, LABELS), (PIXELS.numpy(), LABELS.numpy())])
def test_data_of_another_kind_never_gives_way_to_the_metadata(network: Network, data: object) -> None:
    with pytest.raises(InvalidInput, match=r"^data of type \w+: give"):
        llcert.certify(network, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [(PIXELS, LABELS), [PIXELS, LABELS]])
def test_a_pair_of_tensors_is_the_data(network: Network, data: tuple[Tensor, Tensor]) -> None:
    assert len(llcert.certify(network, data).samples) == 4


def test_labels_are_not_rounded(network: Network) -> None:
    with pytest.raises(InvalidInput, match=r"labels of type .*: give whole numbers"):
        llcert.certify(network, (PIXELS, LABELS + 0.5))


@pytest.mark.parametrize(
    "arguments",
    [
        {"samples": 3},
        {"seed": "a"},
        {"seed": True},
        {"batch_size": 0},
        {"mean": "x"},
        {"mean": [0.1, float("nan")]},
        {"colour": "red"},
        {"clip_input": 1},
        {"dtype": torch.float32},
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_line(network: Network, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"^[^\n]+$"):
        llcert.certify(network, (PIXELS, LABELS), **arguments)  # type: ignore[arg-type]


def test_one_number_is_a_mean_for_every_channel(network: Network) -> None:
    image = torch.rand(2, 3, 4, 4)
    flat = Network(apply(Linear(torch.eye(2, 48)), apply(Input((48,)))), metadata={"eps": "0.1"})
    one, three = (llcert.certify(flat, (image, LABELS[:2]), mean=m, std=0.5) for m in (0.5, [0.5, 0.5, 0.5]))
    assert [s.margin for s in one.samples] == [s.margin for s in three.samples]


def test_bytes_are_pixels_of_255(network: Network) -> None:
    level = (PIXELS * 255).to(torch.uint8)
    one, two = (llcert.certify(network, (x, LABELS)) for x in (level, level.double() / 255))
    assert [s.margin for s in one.samples] == [s.margin for s in two.samples]


def test_stages_as_text_are_a_list(network: Network) -> None:
    report = llcert.certify(network, (PIXELS, LABELS), stages="global, local")
    assert report.subject.settings.running == ("global", "local")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a folder; name a model file in it"):
        llcert.load(tmp_path)


def test_sparse_tensors_are_refused_in_one_line(network: Network) -> None:
    images, labels = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    with pytest.raises(InvalidInput, match="give dense tensors"):
        llcert.certify(network, (images.to_sparse(), labels), 0.1)
