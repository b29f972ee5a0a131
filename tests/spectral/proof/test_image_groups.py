"""Groups of images: every image is in one, and the group's factors are at least the image's, so its norm is too."""

from __future__ import annotations

import pytest
import torch
from dense import Matrix
from drawing import Draw
from torch import Tensor

from llcert.spectral import Masked
from llcert.spectral.proof.image_groups import grouped


def masked(seed: int, images: int) -> Masked:
    draw = Draw(seed)
    return Masked(Matrix(draw.normal(5, 4)), draw.normal(images, 5), draw.normal(images, 4))


def norm(one: Masked, image: int) -> Tensor:
    assert isinstance(one.map, Matrix)
    return torch.linalg.matrix_norm(one.rows[image][:, None] * one.map.entries * one.columns[image], 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("seed", range(5))
def test_a_group_bounds_each_of_its_images(seed: int, size: int) -> None:
    own = masked(seed, 7)
    groups = grouped(own, size)
    assert groups.of.shape == (7,)
    assert groups.masked.batch == -(-7 // size)
    assert int(torch.bincount(groups.of).max()) <= size
    for image, group in enumerate(groups.of.tolist()):
        assert (groups.masked.rows[group] >= own.rows[image].abs()).all()
        assert (groups.masked.columns[group] >= own.columns[image].abs()).all()
        assert norm(groups.masked, group) >= norm(own, image) * (1 - 1e-12)


def test_images_with_the_same_masks_are_put_together() -> None:
    """Two kinds of masks in turn: groups of three hold one kind each, at no loss."""
    kinds = (torch.arange(6) % 2).bool()[:, None]
    rows = torch.where(kinds, torch.tensor([1.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 1])).double()
    own = Masked(Matrix(torch.eye(4, dtype=torch.float64)), rows, torch.ones(6, 4, dtype=torch.float64))
    groups = grouped(own, 3)
    assert torch.equal(groups.masked.rows[groups.of], rows)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_factor_stays_so(poison: float) -> None:
    own = masked(0, 4)
    own.rows[2, 1] = poison
    groups = grouped(own, 2)
    assert not torch.isfinite(groups.masked.rows[groups.of[2]]).all()


def test_no_images() -> None:
    assert grouped(masked(0, 3).select(torch.zeros(0, dtype=torch.int64)), 2).of.shape == (0,)
