"""The clean prediction decides an image that the network answers wrongly, and no other."""

from __future__ import annotations

import torch
from batches import batch_of, decided

from llcert.certification import Clean, Never, Top, Verdict
from llcert.ir import Input, Network, apply
from llcert.ops import Linear
from llcert.program import lower


def test_ties_and_nan_are_misclassified() -> None:
    program = lower(Network(apply(Linear(torch.zeros(3, 2), torch.tensor([1.0, 1.0, 0.0])), apply(Input((2,))))))
    stage, images = Clean(program), torch.full((3, 2), 0.5)
    assert stage.verdict is Verdict.MISCLASSIFIED
    assert decided(stage, program, batch_of(images, torch.arange(3), 0.1)).decided.all()
    images[0, 0] = torch.nan
    assert decided(stage, program, batch_of(images, torch.arange(3), 0.1)).decided.all()


def test_what_is_right_goes_on() -> None:
    """The logits are 3, 2 and 1."""
    program = lower(Network(apply(Linear(torch.diag(torch.tensor([3.0, 2.0, 1.0]))), apply(Input((3,))))))
    asked = (
        (Top(1), [0, 1, 2], [0]),
        (Top(2), [0, 1, 2], [0, 1]),
        (Never(2), [0, 0, 1], [0, 1, 2]),
        (Never(0), [1, 1, 2], []),
    )
    for specification, references, right in asked:
        batch = batch_of(torch.ones(3, 3), torch.tensor(references), 0.1)
        found = decided(Clean(program, specification), program, batch)
        assert torch.nonzero(~found.decided)[:, 0].tolist() == right
