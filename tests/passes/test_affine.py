"""Affine maps and broadcasts that do nothing."""

from __future__ import annotations

import torch
from pass_graphs import canonical, image, labels

from llcert.ir import apply
from llcert.ops import Affine, Expand
from llcert.passes.affine import drop_identity


def test_identities_go() -> None:
    for op in (Affine(), Affine(torch.ones(3)), Affine(torch.tensor(1.0), torch.zeros(3)), Expand((3,))):
        assert labels(canonical(apply(op, image(3)))) == []


def test_everything_else_stays() -> None:
    trained = torch.ones(3, requires_grad=True)
    for op in (Affine(trained), Affine(shift=torch.ones(())), Affine(torch.tensor([1.0, 1.0, 2.0])), Expand((2, 3))):
        assert drop_identity(apply(op, image(3))) is None
    assert drop_identity(apply(Affine(torch.ones(2, 1)), image(1, 3))) is None
