"""What stages are given: a batch of images with what is asked about each, and the bounds that earlier stages found."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.program import Program


@dataclass(frozen=True)
class Batch:
    """Images with what stages need to know of each; every field has the batch as its first axis.

    images: `[batch, *input shape]`, pixel units, in a format that holds them exactly. labels: int64. indices: of the
    images in the data set. radii: of the L2 balls, float64, pixel units. references: the reference class of the
    specification. predictions: the class that the program answers. seeds: of random points and starting vectors; each
    image has its own, so that its result does not depend on the rest of the batch.
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
        """The batch of some of the images; positions: a mask or an index."""
        return Batch(*(getattr(self, f.name)[positions] for f in fields(self)))


@dataclass(frozen=True)
class BoundsSoFar:
    """Bounds that earlier stages found for the images of a batch; every field has the batch as its first axis.

    bounds: the best lower bounds of `z_reference - z_j` over each ball, `[batch, logits]`, float64; -inf where there is
    none. masked: the forward pass with slope weights (eq. 6). refined: the same with intermediate bounds from
    backward passes (docs/method.md, section 10). None for passes that no stage has computed, or that were given up
    where memory ran out.
    """

    bounds: Tensor
    masked: Trace | None = None
    refined: Trace | None = None

    @staticmethod
    def none(program: Program, images: int) -> BoundsSoFar:
        """Before the first stage."""
        shape = (images, *program.output.shape)
        return BoundsSoFar(torch.full(shape, -torch.inf, dtype=torch.float64, device=program.device))

    @property
    def has_traces(self) -> bool:
        """Whether forward passes are kept."""
        return self.masked is not None or self.refined is not None

    def improved(self, bounds: Tensor) -> BoundsSoFar:
        """The better of two bounds each. bounds: `[batch, logits]`."""
        return replace(self, bounds=torch.fmax(self.bounds, bounds.to(self.bounds)))

    def without_traces(self) -> BoundsSoFar:
        """The bounds alone."""
        return BoundsSoFar(self.bounds)

    def select(self, positions: Tensor) -> BoundsSoFar:
        """The bounds of some of the images; positions: a mask or an index."""
        traces = (None if t is None else t.select(positions) for t in (self.masked, self.refined))
        return BoundsSoFar(self.bounds[positions], *traces)
