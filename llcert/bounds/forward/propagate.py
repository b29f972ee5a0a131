"""The forward propagation: box, ball and mask of every value of a network over the balls of images, block by block.

For every stage, for proofs and for training (docs/method.md, sections 3 to 5). The same propagation estimates or
proves: how norms are found and whether rounding is paid for is the arithmetic's (`llcert.bounds.forward.arithmetic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.arithmetic import Arithmetic, BlockInput
from llcert.bounds.forward.joins import TermNorms, term_norms
from llcert.bounds.forward.roundoff import BlockRoundoff
from llcert.bounds.forward.row_weights import RowWeighting
from llcert.bounds.forward.trace import Trace
from llcert.domain.region import MaskedRegion, Region
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
    weighting: RowWeighting = RowWeighting.SLOPE,
    boxes: Boxes | None = None,
) -> Trace:
    """Outer bounds of every value of the network over `region`: an estimate or a proof, as the arithmetic is.

    region: of the images, centre and box `[batch, *input shape]`, radius `[batch]`. boxes: intermediate bounds of some
    blocks, which their boxes are intersected with; sound where the result is to be. Raises ValueError for a region in
    another format than the program's.
    """
    if region.centre.dtype != program.dtype:
        raise ValueError(f"a region in {region.centre.dtype} of a program in {program.dtype}")
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    hidden = {program.input: MaskedRegion(region, everything)}
    lipschitz = {program.input: torch.ones_like(region.radius)}
    found: dict[Node, _BlockBounds] = {}
    between_points = weighting is RowWeighting.SLOPE or not arithmetic.asks_norms
    for number, block in enumerate(program.blocks):
        roundoff = {s: found[s].roundoff for s in block.sources if s in found}
        sources = {s: hidden[s] for s in block.sources}
        radii = [h.region.radius for h in sources.values()]
        inputs = BlockInput(block, number, sources, radii, roundoff, region.radius)
        bounds = _block_bounds(inputs, arithmetic, weighting, boxes or {})
        found[block.node], hidden[block.node] = bounds, bounds.output
        constant = arithmetic.lipschitz(inputs, bounds.term_norms, lipschitz) if between_points else None
        if constant is not None:
            lipschitz[block.node] = constant
    return _trace(arithmetic, found, hidden, lipschitz if program.output in lipschitz else {}, program.output)


@dataclass(frozen=True)
class _BlockBounds:
    """What the propagation finds of one block.

    z: region of its value before the activation. weights: of its rows. norms: of its terms' masked maps; empty where
    the arithmetic asks for none. term_norms: these norms together. radius: bound of `||weights (z - centre)||`,
    `[batch]`. output: region and mask of the block's output. roundoff: None for an estimate.
    """

    z: Region
    weights: Tensor
    norms: Mapping[Term, Norm]
    term_norms: TermNorms
    radius: Tensor
    output: MaskedRegion
    roundoff: BlockRoundoff | None


def _block_bounds(inputs: BlockInput, arithmetic: Arithmetic, weighting: RowWeighting, boxes: Boxes) -> _BlockBounds:
    block = inputs.block
    z, roundoff = arithmetic.affine_image(inputs)
    if block.node in boxes:
        z = z.within(*boxes[block.node])
    weights = arithmetic.row_weights(block, z, weighting)
    norms, combined = dict[Term, Norm](), TermNorms(())
    if arithmetic.asks_norms:
        columns = [inputs.sources[t.source].mask for t in block.terms]
        for term, own in zip(block.terms, columns, strict=True):
            norms[term] = arithmetic.norm(Masked(term, weights, own), inputs)
        values, seed = [n.value for n in norms.values()], arithmetic.seed + inputs.number
        combined = term_norms(block, weights, columns, values, inputs.radii, arithmetic.joint_solver, seed)
    radius = arithmetic.radius(inputs, combined, weights, roundoff)
    output, roundoff = arithmetic.activation_image(inputs, z, radius, roundoff)
    return _BlockBounds(z, weights, norms, combined, radius, output, roundoff)


def _trace(
    arithmetic: Arithmetic,
    found: Mapping[Node, _BlockBounds],
    hidden: Mapping[Node, MaskedRegion],
    lipschitz: Mapping[Node, Tensor],
    output: Node,
) -> Trace:
    norms = {t: norm for b in found.values() for t, norm in b.norms.items()}
    joint = {n: b.term_norms.joint for n, b in found.items() if b.term_norms.joint is not None}
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
