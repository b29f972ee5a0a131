"""The images that are certified: which ones, with which radius, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llcert.api import images_and_labels
from llcert.certification import Never, Radii, Settings, radii_of
from llcert.domain.pixel_range import PixelRange
from llcert.errors import InvalidInput
from llcert.options import Options
from llcert.runs.selection import Selection, select_images

LABELS = torch.arange(10) % 3
DATASET = images_and_labels(torch.linspace(0, 1, 40).reshape(10, 4), LABELS)
SETTINGS = Settings(0.1)


def selected(samples: str | None, settings: Settings = SETTINGS) -> Selection:
    return select_images(Options(samples=samples), settings, DATASET)


def numbered(count: int) -> Radii:
    """The radius of image number i, from the first one in the list on, is i / 100."""
    texts = tuple(f"{i}/100" for i in range(count))
    return Radii(tuple(i / 100 for i in range(count)), texts)


def test_all_images_or_those_that_are_asked_for() -> None:
    assert (selected(None).indices, selected(None).text) == (range(10), "0:10")
    assert (selected("3").indices, selected("3").text) == (range(3), "0:3")
    assert (selected("4:7").indices, selected("4:7").text) == (range(4, 7), "4:7")


def test_images_of_the_excluded_class_are_left_out() -> None:
    found = selected("2:9", replace(SETTINGS, specification=Never(1)))
    assert list(found.indices) == [i for i in range(2, 9) if int(LABELS[i]) != 1]
    assert found.left_out == 2
    with pytest.raises(InvalidInput, match="never 1: every chosen image has that label"):
        selected("4:5", replace(SETTINGS, specification=Never(1)))


@pytest.mark.parametrize("never", [False, True])
def test_a_radius_stays_with_its_image(never: bool) -> None:
    """Where there is one for every image of the data set, and where there is one for every chosen one."""
    settings = replace(SETTINGS, specification=Never(1)) if never else SETTINGS
    for count, first in ((10, 0), (4, 5)):
        found = selected("5:9", replace(settings, eps=numbered(count)))
        assert isinstance(found.settings.eps, Radii)
        expected = [(index - first) / 100 for index in found.indices]
        assert radii_of(found.settings.eps, torch.tensor(list(found.indices))).tolist() == expected
        assert found.settings.eps.texts == tuple(f"{i - first}/100" for i in range(5, 9))


def test_any_other_number_of_radii_is_refused() -> None:
    for count in (3, 5, 9, 11):
        with pytest.raises(InvalidInput, match=f"holds {count} radii; images holds 10 images, of which 4 are chosen"):
            selected("5:9", replace(SETTINGS, eps=numbered(count)))


def test_an_image_outside_the_range_of_the_claim_is_refused() -> None:
    """Chosen ones alone count: pixels of images 5 to 8 lie in [0.51, 0.9]."""
    clipped = replace(SETTINGS, clip_input=True, pixel_range=PixelRange.of("0.5", "0.95"))
    assert selected("5:9", clipped).indices == range(5, 9)
    with pytest.raises(InvalidInput, match=r"pixels of images run from 0\.410256 to 0\.897436, outside"):
        selected("4:9", clipped)
    assert selected("4:9", replace(clipped, clip_input=False)).indices == range(4, 9)
