"""Radii of images: which one belongs to which image, and that rounding never makes one smaller."""

from __future__ import annotations

from fractions import Fraction

import torch

from llcert.certification.radii import Radii, above, radii_of
from llcert.options.text import parse_eps


def test_a_radius_is_never_below_what_was_asked() -> None:
    """A text is rounded to the nearest number, which may be less than it says."""
    texts = ("36/255", "0.1", "2/3", "1e-300", "1e300", "3")
    radii = above(torch.tensor([parse_eps(text) for text in texts], dtype=torch.float64))
    for text, radius in zip(texts, radii.tolist(), strict=True):
        assert Fraction(text) <= Fraction(radius) <= Fraction(text) * (1 + Fraction(1, 2**51))
    assert any(Fraction(parse_eps(text)) < Fraction(text) for text in texts)
    assert above(torch.tensor([0.0, 5e-324], dtype=torch.float64)).tolist() == [0.0, 1e-323]


def test_every_image_has_the_radius_of_its_index() -> None:
    radii = Radii((0.1, 0.2, 0.3, 0.4), ("1/10", "1/5", "3/10", "2/5"), first=10)
    assert radii_of(radii, torch.tensor([12, 10, 12])).tolist() == [0.3, 0.1, 0.3]
    assert radii_of(0.5, torch.arange(2)).tolist() == [0.5, 0.5]
    part = radii.part(11, 13)
    assert (part.values, part.texts, part.first) == ((0.2, 0.3), ("1/5", "3/10"), 11)
    assert radii_of(part, torch.tensor([11, 12])).tolist() == [0.2, 0.3]
