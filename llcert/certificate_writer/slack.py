"""What a proof leaves for the checker: boxes as rule 2 of docs/certificate.md has them, and room for its rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from llcert.bounds import CheckerSlack
from llcert.bounds.forward.box import Hidden, box
from llcert.certificate_writer.canonical import Canonical
from llcert.certificate_writer.matrices import row_norms
from llcert.certification import Checkable
from llcert.domain.region import Region
from llcert.ir import Node
from llcert.numerics.tensors import flat
from llcert.program import Block


def checkable(canonical: Canonical) -> Checkable:
    """The network of a certificate, for provers that keep evidence."""
    return Checkable(canonical.program, CheckerSlack(_Box(canonical)))


@dataclass(frozen=True)
class _Box:
    """The box of a block's value, of its sources: interval arithmetic through the block, cut by the norms of whole rows
    times the balls of the sources."""

    canonical: Canonical

    def __call__(self, block: Block, sources: Mapping[Node, Hidden]) -> Region:
        region = box(block, sources, balls=False)
        reach = torch.zeros_like(region.centre)
        for source, matrix in self.canonical.maps[block.node].items():
            known = sources[source]
            norms = row_norms(matrix, flat(known.varying).double().cpu().numpy())
            moved = torch.from_numpy(norms).to(reach.device) * known.region.radius[:, None]
            reach = reach + moved.reshape(reach.shape)
        lower, upper = torch.maximum(region.lower, region.centre - reach), region.centre + reach
        return Region(region.centre, lower, torch.minimum(region.upper, upper), region.radius)
