"""Batches with the words of a test."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.certification import Batch, BoundsSoFar, Eps, Finding, Stage, radii_of
from llcert.program import Program


def batch_of(images: Tensor, labels: Tensor, eps: Eps, indices: Tensor | None = None, seed: int = 0) -> Batch:
    """Images from the first one of a data set on, of which the network is right; labels: of the references, too."""
    indices = torch.arange(len(images)) if indices is None else indices
    return Batch(images, labels, indices, radii_of(eps, indices), labels, labels, seed + indices)


def decided(stage: Stage, program: Program, batch: Batch, bounds: Tensor | None = None) -> Finding:
    """What a stage finds that runs first, or after others that have found bounds, `[batch, logits]`."""
    so_far = BoundsSoFar.none(program, len(batch))
    return stage(batch, so_far if bounds is None else so_far.improved(bounds))
