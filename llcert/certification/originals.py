"""Compares the file or module itself with the imported network, image by image (docs/method.md, section 14)."""

from __future__ import annotations

from torch import Tensor

from llcert.certification.specification import Specification
from llcert.frontend.comparison import Rounded
from llcert.ir import Network, Original
from llcert.program import Program


def disputed(
    network: Network, original: Original, program: Program, specification: Specification, images: Tensor, labels: Tensor
) -> Tensor:
    """The images of which no certificate may speak, boolean `[batch]`.

    Those at which the specification does not hold of the original's own logits, or where these differ from the
    network's by more than the rounding that a proof pays for. original: what the network was read from. program: the
    network in float64. images: `[batch, *input shape]`, pixel units; labels: `[batch]`.
    """
    rounded = images.to(network.input.dtype)
    theirs = original.logits(rounded).detach().to(images.device, program.dtype)
    holds = specification.holds(theirs, labels, network.classes)
    return ~holds | Rounded.of(network, original, rounded, program).differs(theirs)
