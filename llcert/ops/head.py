"""What classifiers put behind their logits; stripped by the importer, refused anywhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.ir import Op


@dataclass(frozen=True)
class Head(Op):
    """A function of all logits that keeps their order: `Softmax`, `LogSoftmax`, or picks the largest: `ArgMax`."""

    kind: str

    def __call__(self, *values: Tensor) -> Tensor:
        (z,) = values
        if self.kind == "ArgMax":
            return z.argmax(-1, keepdim=True)
        return torch.log_softmax(z, -1) if self.kind == "LogSoftmax" else torch.softmax(z, -1)
