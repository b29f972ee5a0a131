"""Box, ball and mask of every value of a network over the balls of images, block by block (docs/method.md, 3 to 5).

One walk for estimates and for proofs: the arithmetic decides what a norm is worth and whether rounding is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.arithmetic import Arithmetic, BlockInput
from llcert.bounds.forward.box import Hidden
from llcert.bounds.forward.joins import BranchNorms, branch_norms
from llcert.bounds.forward.roundoff import BlockRoundoff
from llcert.bounds.forward.row_weights import RowWeighting
from llcert.bounds.forward.trace import Trace
from llcert.domain.region import Region
from llcert.ir import Node
from llcert.program import Program, Term
from llcert.spectral import Masked, Norm, weakest

Boxes = Mapping[Node, tuple[Tensor, Tensor]]
"""Lower and upper bounds of the values of some blocks before their activation, `[batch, *pre shape]` each."""


def propagate(
    program: Program,
    region: Region,
    arithmetic: Arithmetic,
    *,
    weighting: RowWeighting = RowWeighting.MASK,
    boxes: Boxes | None = None,
) -> Trace:
    """Outer bounds of every value of the network over `region`, as sound as the arithmetic is.

    region: of the images, centre and box `[batch, *input shape]`, radius `[batch]`. boxes: what else is known of some
    blocks, as sound as the result is to be. Raises ValueError for a region in another format than the program's.
    """
    if region.centre.dtype != program.dtype:
        raise ValueError(f"a region in {region.centre.dtype} of a program in {program.dtype}")
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    hidden = {program.input: Hidden(region, everything)}
    lipschitz = {program.input: torch.ones_like(region.radius)}
    found: dict[Node, _BlockBounds] = {}
    between_points = weighting is RowWeighting.MASK or not arithmetic.local
    for number, block in enumerate(program.blocks):
        roundoff = {s: found[s].roundoff for s in block.sources if s in found}
        sources = {s: hidden[s] for s in block.sources}
        radii = [h.region.radius for h in sources.values()]
        entry = BlockInput(block, number, sources, radii, roundoff, region.radius)
        bounds = _block_bounds(entry, arithmetic, weighting, boxes or {})
        found[block.node], hidden[block.node] = bounds, bounds.output
        constant = arithmetic.lipschitz(entry, bounds.branches, lipschitz) if between_points else None
        if constant is not None:
            lipschitz[block.node] = constant
    return _trace(arithmetic, found, hidden, lipschitz if program.output in lipschitz else {}, program.output)


@dataclass(frozen=True)
class _BlockBounds:
    """What is found of one block. z: region of its value before the activation. norms: of its terms' masked maps, none
    where none were asked for. branches: what they say together. radius: of z, weighted. output: of its value."""

    z: Region
    weights: Tensor
    norms: Mapping[Term, Norm]
    branches: BranchNorms
    radius: Tensor
    output: Hidden
    roundoff: BlockRoundoff | None


def _block_bounds(entry: BlockInput, arithmetic: Arithmetic, weighting: RowWeighting, boxes: Boxes) -> _BlockBounds:
    block = entry.block
    z, roundoff = arithmetic.affine_image(entry)
    if block.node in boxes:
        z = z.within(*boxes[block.node])
    weights = arithmetic.row_weights(block, z, weighting)
    norms, branches = dict[Term, Norm](), BranchNorms(())
    if arithmetic.local:
        columns = [entry.sources[t.source].mask for t in block.terms]
        for term, own in zip(block.terms, columns, strict=True):
            norms[term] = arithmetic.norm(Masked(term, weights, own), entry)
        values, seed = [n.value for n in norms.values()], arithmetic.seed + entry.number
        branches = branch_norms(block, weights, columns, values, entry.radii, arithmetic.joint_solver, seed)
    radius = arithmetic.radius(entry, branches, weights, roundoff)
    output, roundoff = arithmetic.activation_image(entry, z, radius, roundoff)
    return _BlockBounds(z, weights, norms, branches, radius, output, roundoff)


def _trace(
    arithmetic: Arithmetic,
    found: Mapping[Node, _BlockBounds],
    hidden: Mapping[Node, Hidden],
    lipschitz: Mapping[Node, Tensor],
    output: Node,
) -> Trace:
    norms = {t: norm for b in found.values() for t, norm in b.norms.items()}
    joint = {n: b.branches.joint for n, b in found.items() if b.branches.joint is not None}
    return Trace(
        pre_activation={n: b.z for n, b in found.items()},
        weighted={n: (b.weights, b.radius) for n, b in found.items()},
        post_activation=hidden,
        norms=norms,
        joint=joint,
        lipschitz=lipschitz,
        logit_lipschitz=lipschitz.get(output),
        side=weakest(arithmetic.side, *(n.side for n in norms.values()), *(j.side for j in joint.values())),
        roundoff={n: b.roundoff for n, b in found.items() if b.roundoff is not None} or None,
    )
