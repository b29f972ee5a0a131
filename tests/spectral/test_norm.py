"""A bound of several values is as weak as the weakest of them."""

from __future__ import annotations

import itertools

import torch

from llcert.spectral import Norm, Side, weakest


def test_the_weakest_side() -> None:
    order = [Side.UPPER, Side.PROBABLE, Side.ESTIMATE]
    assert list(Side) == order
    for sides in itertools.product(order, repeat=3):
        assert order.index(weakest(*sides)) == max(order.index(s) for s in sides)


def test_images_are_selected_in_every_part() -> None:
    value = torch.arange(4.0)
    norm = Norm(value, Side.PROBABLE, value[:, None], value.long(), value > 1)
    for images in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        some = norm.select(images)
        assert some.vector is not None
        assert some.side is Side.PROBABLE
        for part in (some.value, some.vector[:, 0], some.iterations):
            assert torch.equal(part.float(), value[images])
        assert torch.equal(some.converged, value[images] > 1)
    assert Norm(value, Side.UPPER, None, value.long(), value > 1).select(torch.tensor([0])).vector is None
