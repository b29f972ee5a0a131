"""How a proof is widened so that the checker, whose arithmetic is another, confirms it (docs/certificate.md, section
6).

Boxes are those of rule 2; the slack in boxes, norms and radii is that of `llcert.bounds.CheckerSlack`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from llcert.bounds import CheckerSlack
from llcert.bounds.forward.box import box
from llcert.certificate_writer.graph import CertificateGraph
from llcert.certificate_writer.matrices import row_norms
from llcert.certification import Checkable
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.numerics.tensors import flat
from llcert.program import Block


def checkable(graph: CertificateGraph) -> Checkable:
    """The network of a certificate and the slack for its checker, for provers that keep evidence."""
    return Checkable(graph.program, CheckerSlack(_Box(graph)))


@dataclass(frozen=True)
class _Box:
    """The box of a block's value by rule 2 (a) and (b): interval arithmetic through the block from the boxes of its
    sources, narrowed by the norms of the rows of each `A_s` times the radius of its source's ball."""

    graph: CertificateGraph

    def __call__(self, block: Block, sources: Mapping[Node, MaskedRegion]) -> Region:
        region = box(block, sources, balls=False)
        reach = torch.zeros_like(region.centre)
        for source, matrix in self.graph.maps[block.node].items():
            known = sources[source]
            norms = row_norms(matrix, flat(known.varying).double().cpu().numpy())
            moved = torch.from_numpy(norms).to(reach.device) * known.region.radius[:, None]
            reach = reach + moved.reshape(reach.shape)
        lower, upper = torch.maximum(region.lower, region.centre - reach), region.centre + reach
        return Region(region.centre, lower, torch.minimum(region.upper, upper), region.radius)
