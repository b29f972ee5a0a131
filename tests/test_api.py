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


def test_bytes_are_pixels_of_255(network: Network) -> None:
    level = (PIXELS * 255).to(torch.uint8)
    one, two = (llcert.certify(network, (x, LABELS)) for x in (level, level.float() / 255))
    assert [s.margin for s in one.samples] == [s.margin for s in two.samples]


def test_stages_as_text_are_a_list(network: Network) -> None:
    report = llcert.certify(network, (PIXELS, LABELS), stages="global, local")
    assert report.subject.stages == ("global", "local")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a folder; name a model file in it"):
        llcert.load(tmp_path)
