"""A batch of images, what is asked about each of them, and what earlier stages found out about them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.program import Program


@dataclass(frozen=True)
class Batch:
    """Images and what is asked about each of them; every field has the batch as its first axis.

    images: `[batch, *input shape]`, pixel units, in a precision that holds them exactly. labels: int64. indices: of the
    images in the data set. radii: of the L2 balls, float64, pixel units. references: the class whose logit the
    specification compares with those of other classes. predictions: the class that the program answers. seeds: of
    random points and starting vectors, so that what is found for an image does not depend on its neighbours.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    radii: Tensor
    references: Tensor
    predictions: Tensor
    seeds: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def select(self, positions: Tensor) -> Batch:
        """Some of the images; positions: a mask or an index."""
        return Batch(*(getattr(self, f.name)[positions] for f in fields(self)))


@dataclass(frozen=True)
class Traces:
    """Forward passes over the balls of a batch that several stages start from; None until a stage computes one.

    masked: with 0/1 row weights (eq. 6). refined: the same with intermediate bounds from backward passes
    (docs/method.md, section 10).
    """

    masked: Trace | None = None
    refined: Trace | None = None

    def __bool__(self) -> bool:
        return self.masked is not None or self.refined is not None

    def select(self, positions: Tensor) -> Traces:
        """Those of some images; positions: a mask or an index."""
        return Traces(*(None if t is None else t.select(positions) for t in (self.masked, self.refined)))


@dataclass(frozen=True)
class Known:
    """What earlier stages found out about the images of a batch.

    bounds: the best lower bounds so far of `z_reference - z_j` over each ball, `[batch, logits]`, float64; -inf where
    there is none. traces: forward passes that may be used again.
    """

    bounds: Tensor
    traces: Traces = field(default_factory=Traces)

    @staticmethod
    def nothing(program: Program, images: int) -> Known:
        """What is known of so many images before the first stage."""
        shape = (images, *program.output.shape)
        return Known(torch.full(shape, -torch.inf, dtype=torch.float64, device=program.device))

    def improved(self, bounds: Tensor | None, traces: Traces | None) -> Known:
        """With the better of two bounds each, and the newer traces; None for nothing new."""
        better = self.bounds if bounds is None else torch.fmax(self.bounds, bounds.to(self.bounds))
        return Known(better, self.traces if traces is None else traces)

    def select(self, positions: Tensor) -> Known:
        """What is known of some of the images; positions: a mask or an index."""
        return Known(self.bounds[positions], self.traces.select(positions))
