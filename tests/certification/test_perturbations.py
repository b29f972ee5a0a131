"""The sets that attacks move in: what is projected lies inside, and inside means so in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from llcert.certification.perturbations import Perturbations
from llcert.domain.pixel_range import UNIT

F32, F64 = torch.float32, torch.float64
SEEDS = torch.arange(40)


def _images(dtype: torch.dtype, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(40, 2, 9, generator=torch.Generator().manual_seed(0)).to(dtype)


def _squared_distance(point: Tensor, image: Tensor) -> Fraction:
    """Exactly."""
    pairs = zip(point.flatten().tolist(), image.flatten().tolist(), strict=True)
    return sum(((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs), Fraction(0))


@pytest.mark.parametrize(("given", "points"), [(F32, F32), (F32, F64), (F64, F32), (F64, F64)])
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4, 36 / 255, 3.0])
def test_what_is_projected_truly_lies_inside(eps: float, given: torch.dtype, points: torch.dtype) -> None:
    """But for balls so small that no number of the points' format is in them."""
    images, radii = _images(given), torch.full((40,), eps, dtype=F64)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    for around in (Perturbations.whole(images, radii, points), Perturbations.clipped(images, radii, points)):
        for found in (around.random(SEEDS), around.project(images + noise)):
            assert found.dtype == points
            truly = [_squared_distance(p, i) <= Fraction(eps) ** 2 for p, i in zip(found, images, strict=True)]
            contained = around.contains(found).tolist()
            assert all(t for t, c in zip(truly, contained, strict=True) if c)
            assert all(contained) or (eps <= 1e-8 and (given, points) == (F64, F32))


def test_points_reach_the_sphere() -> None:
    images, radii = _images(F32), torch.full((40,), 0.5, dtype=F64)
    points = Perturbations.whole(images, radii, F32).project(images + 5)
    assert (torch.linalg.vector_norm((points - images).flatten(1), dim=1) > 0.5 * (1 - 1e-5)).all()


def test_a_distance_a_hair_above_the_radius_is_outside() -> None:
    image = torch.zeros(1, 3, dtype=F64)
    point = torch.tensor([[0.3, 0.4, 0.0]], dtype=F64)
    exact = _squared_distance(point, image)
    around = [Perturbations.whole(image, torch.tensor([r], dtype=F64), F64) for r in (0.5, 0.5 + 1e-12)]
    assert exact > Fraction(1, 4), "0.3 and 0.4 are no such fractions in binary"
    assert [bool(a.contains(point)) for a in around] == [False, True]


def test_nan_lies_outside() -> None:
    images = _images(F32)
    around = Perturbations.whole(images, torch.full((40,), 1e9, dtype=F64), F32)
    assert not around.contains(images * torch.nan).any()
    assert not UNIT.holds(images * torch.nan).any()


def test_the_pixel_range_binds_the_images_that_lie_in_it() -> None:
    images = torch.cat((_images(F32), _images(F32, -2, 2)))
    around = Perturbations.natural(images, torch.full((80,), 2.0, dtype=F64), F32)
    points = around.project(images + 3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1)))
    assert UNIT.holds(points).tolist() == [True] * 40 + [False] * 40
    distances = torch.linalg.vector_norm((points - images).flatten(1), dim=1)
    assert (distances[40:] > 1.99).all(), "nothing holds these back on any side"


def test_a_claim_about_a_range_is_widened_by_an_image_outside_it() -> None:
    """As the region is that the bounds start from."""
    image = torch.tensor([[-0.5, 0.5, 1.5]])
    around = Perturbations.clipped(image, torch.tensor([9.0], dtype=F64), F32)
    assert around.project(image - 3).tolist() == [[-0.5, 0.0, 0.0]]
    assert around.project(image + 3).tolist() == [[1.0, 1.0, 1.5]]
    assert around.contains(torch.tensor([[-0.5, 0.0, 0.0]])).all()
    assert not around.contains(torch.tensor([[-0.6, 0.0, 0.0]])).any()


def test_a_random_point_depends_on_its_own_seed_alone() -> None:
    images = _images(F32)
    around = Perturbations.whole(images, torch.full((40,), 0.5, dtype=F64), F32)
    some = torch.tensor([7, 3])
    assert torch.equal(around.select(some).random(SEEDS[some]), around.random(SEEDS)[some])
    assert not torch.equal(around.random(SEEDS), around.random(SEEDS + 1))
