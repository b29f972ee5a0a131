"""Crops and flips against one image at a time, cut and turned by slicing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.errors import InvalidInput
from llcert_train.augment import Augmentation

KINDS = [(0, True), (1, False), (3, False), (4, True)]


def numbered(count: int, channels: int, height: int, width: int) -> Tensor:
    """Images in which no value occurs twice, nor 0."""
    return torch.arange(1.0, 1 + count * channels * height * width).reshape(count, channels, height, width)


def variants(image: Tensor, crop: int, flip: bool) -> dict[tuple[int, int, bool], Tensor]:
    """Every image that one can become, by the window's top and left edge and whether it is flipped."""
    _, height, width = image.shape
    padded = F.pad(image, (crop,) * 4)
    found = {}
    for top in range(2 * crop + 1):
        for left in range(2 * crop + 1):
            window = padded[:, top : top + height, left : left + width]
            found[top, left, False] = window
            if flip:
                found[top, left, True] = window.flip(-1)
    return found


def drawn(images: Tensor, results: Tensor, crop: int, flip: bool) -> list[tuple[int, int, bool]]:
    """What was done to each image; fails where one became something it cannot become."""
    choices = []
    for image, result in zip(images, results, strict=True):
        fitting = [what for what, one in variants(image, crop, flip).items() if torch.equal(one, result)]
        assert len(fitting) == 1
        choices += fitting
    return choices


@pytest.mark.parametrize(("crop", "flip"), KINDS)
@pytest.mark.parametrize("shape", [(40, 1, 8, 8), (25, 3, 5, 9)])
def test_every_image_is_a_window_of_itself(crop: int, flip: bool, shape: tuple[int, ...]) -> None:
    images = numbered(*shape)
    before = images.clone()
    results = Augmentation(crop, flip)(images, seed=3, step=5)
    assert results.shape == images.shape
    assert results.dtype == images.dtype
    assert len(set(drawn(images, results, crop, flip))) > 1
    assert torch.equal(images, before)


def test_the_numbers_drawn_are_the_ones_used() -> None:
    images = numbered(30, 2, 6, 7)
    augmentation = Augmentation(2, True)
    choices = augmentation._drawn(30, seed=1, step=2).T.tolist()
    pairs = zip(images, choices, strict=True)
    expected = [variants(image, 2, True)[top, left, bool(coin)] for image, (top, left, coin) in pairs]
    assert torch.equal(augmentation(images, seed=1, step=2), torch.stack(expected))


def test_all_windows_and_both_sides_come_up_about_equally_often() -> None:
    images = numbered(1, 1, 3, 3).expand(9000, 1, 3, 3)
    results = Augmentation(1, True)(images, seed=0, step=0)
    _, counts = results.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 18
    assert (counts - 500).abs().max() < 120  # five standard deviations and more


def test_images_are_drawn_for_independently() -> None:
    images = numbered(1, 1, 8, 8).expand(2000, 1, 8, 8).contiguous()
    found = torch.tensor(drawn(images, Augmentation(2, True)(images, seed=0, step=0), 2, True), dtype=torch.float64)
    correlations = torch.corrcoef(torch.cat((found[:-1], found[1:]), dim=1).T)
    assert (correlations - torch.eye(6)).abs().max() < 0.12


@pytest.mark.parametrize(("crop", "flip"), KINDS)
def test_a_step_is_drawn_again_alike(crop: int, flip: bool) -> None:
    images, augmentation = numbered(64, 1, 6, 6), Augmentation(crop, flip)
    first = augmentation(images, seed=3, step=5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(augmentation(images, seed=3, step=5), first)
    assert torch.equal(torch.get_rng_state(), state), "draws from the global generator"
    others = [augmentation(images, seed=seed, step=step) for seed, step in ((3, 6), (4, 5), (5, 3), (0, 0))]
    assert not any(torch.equal(other, first) for other in others)


def test_flips_leave_the_windows_as_they_are() -> None:
    images = numbered(50, 1, 6, 6)
    cropped = drawn(images, Augmentation(2)(images, seed=0, step=1), 2, False)
    both = drawn(images, Augmentation(2, True)(images, seed=0, step=1), 2, True)
    assert [what[:2] for what in both] == [what[:2] for what in cropped]


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 2), (4, 0), (3,)])
def test_nothing_asked_is_the_very_same_tensor(shape: tuple[int, ...]) -> None:
    images = torch.zeros(shape)
    assert Augmentation()(images, seed=0, step=0) is images


def test_no_images() -> None:
    assert Augmentation(1, True)(torch.zeros(0, 3, 4, 4), seed=0, step=0).shape == (0, 3, 4, 4)


def test_images_in_another_layout_and_type() -> None:
    images = numbered(12, 3, 6, 5)
    expected = Augmentation(2, True)(images, seed=0, step=0)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(Augmentation(2, True)(strided, seed=0, step=0), expected)
    assert torch.equal(Augmentation(2, True)(images.double(), seed=0, step=0), expected.double())


@pytest.mark.parametrize("augmentation", [Augmentation(1), Augmentation(flip=True)])
@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 8), (4, 1, 2, 8, 8), ()])
def test_other_shapes_are_refused(augmentation: Augmentation, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"^crop and flip need \[batch.*$"):
        augmentation(torch.zeros(shape), seed=0, step=0)


@pytest.mark.parametrize("shape", [(2, 1, 4, 9), (2, 1, 9, 4)])
def test_the_crop_stays_below_both_sides(shape: tuple[int, ...]) -> None:
    Augmentation(3)(torch.zeros(shape), seed=0, step=0)
    with pytest.raises(InvalidInput, match=r"^crop 4: images of \d x \d pixels"):
        Augmentation(4)(torch.zeros(shape), seed=0, step=0)


def test_a_negative_crop_is_refused() -> None:
    with pytest.raises(InvalidInput, match="crop -1"):
        Augmentation(-1)


@pytest.mark.gpu
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    images = numbered(64, 3, 8, 8)
    expected = Augmentation(2, True)(images, seed=0, step=7)
    found = Augmentation(2, True)(images.cuda(), seed=0, step=7)
    assert found.is_cuda
    assert torch.equal(found.cpu(), expected)
