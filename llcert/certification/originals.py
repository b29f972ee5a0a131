"""What the file or the module itself answers at every image that may be certified."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.certification.specification import Specification
from llcert.frontend.comparison import Rounded
from llcert.ir import Network, Original
from llcert.program import Program, lower


@dataclass(frozen=True, eq=False)
class Originals:
    """Compares a network with what it was read from, image by image."""

    network: Network
    original: Original
    specification: Specification
    device: torch.device | str

    @cached_property
    def _program(self) -> Program:
        return lower(self.network, self.device, torch.float64)

    def disputed(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images of which no certificate may speak, boolean `[batch]`.

        Those at which the original's own logits do not have what is claimed, or differ from the network's by more than
        the rounding that a proof pays for. images: `[batch, *input shape]`, pixel units; labels: `[batch]`.
        """
        rounded = images.to(self.network.input.dtype)
        theirs = self.original.logits(rounded).detach().to(images.device, torch.float64)
        holds = self.specification.holds(theirs, labels, self.network.classes)
        return ~holds | Rounded.of(self.network, self.original, rounded, self._program).differs(theirs)
