"""What the two forward passes of before shared: their record, and how far several sources move a block together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.bounds.forward.joins import SideBySide
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.numerics.tensors import flat, length
from llcert.program import Block, Term
from llcert.spectral import Masked, Norm, Side, Solver, random_start


@dataclass(frozen=True)
class Roundoff:
    """What an enclosure knows of sizes and errors, for whoever computes with its regions.

    sizes: of each block, upper bounds of `N |h| + |b|` over the regions, N the product of the absolute matrices,
    `[batch, *pre shape]`. totals: their sum over all nodes on the way through the block, and its sources, `[batch]`.
    errors: of each block, bounds of what an evaluation may err in an entry of its value before the activation, float64
    in this proof and the deployed format together. after: likewise of its output. slips: upper bounds of the distance
    of a block's output from that of the network in real numbers at the same point, `[batch]`, of any such evaluation.
    All are keyed by the block's node: two activations of one value are two blocks, and each has errors of its own.
    """

    sizes: dict[Node, Tensor] = field(default_factory=dict)
    totals: dict[Node, Tensor] = field(default_factory=dict)
    errors: dict[Node, Tensor] = field(default_factory=dict)
    after: dict[Node, Tensor] = field(default_factory=dict)
    slips: dict[Node, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """What the old passes found, in the fields of `llcert.bounds.Trace`."""

    pre_activation: dict[Node, Region] = field(default_factory=dict)
    weighted: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)
    post_activation: dict[Node, MaskedRegion] = field(default_factory=dict)
    norms: dict[Term, Norm] = field(default_factory=dict)
    joint: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lipschitz: dict[Node, Tensor] = field(default_factory=dict)
    logit_lipschitz: Tensor | None = None
    side: Side = Side.ESTIMATE
    roundoff: Roundoff | None = None


@dataclass(frozen=True)
class Reach:
    """The norms of a block's terms, and of all of them side by side where that may say more.

    norms: one for each term, `[batch]`. disjoint: the terms fill different rows. together: norm of
    `[t_1 A_1, t_2 A_2, ...]`, `[batch]`, for the weights t, `[terms, batch]`; None where it was not computed.
    """

    norms: tuple[Tensor, ...]
    disjoint: bool = False
    together: Tensor | None = None
    weights: Tensor | None = None

    def __call__(self, radii: Sequence[Tensor]) -> Tensor:
        """How far the output moves when source s moves by `radii[s]` at most, `[batch]`: an upper bound if norms are.

        The sum of norm times radius; the root of the sum of squares where rows are disjoint; or, for any t > 0,
        `||sum A_s d_s|| <= ||[t_s A_s]|| sqrt(sum (r_s / t_s)^2)`, whichever is least.
        """
        parts = torch.stack([n * r for n, r in zip(self.norms, radii, strict=True)])
        if self.disjoint:
            return length(parts.T)
        total = parts.sum(0)
        if self.together is None or self.weights is None:
            return total
        joint = self.together * length((torch.stack(list(radii)) / self.weights).T)
        return torch.where(joint < total, joint, total)


def reach(
    block: Block,
    rows: Tensor,
    columns: Sequence[Tensor],
    norms: Sequence[Tensor],
    radii: Sequence[Tensor],
    solver: Solver | None,
    seed: int | Tensor,
) -> Reach:
    """The block's reach, with one more norm where terms add up and there is a solver for it.

    rows, columns: factors of the maps, `[batch, *shape]`. norms, radii: of each term and source, `[batch]`. The weights
    `t_s = sqrt(r_s / norm_s)` never do worse than the sum: the joint norm is at most `sqrt(sum norm_s^2 t_s^2)`.
    """
    alone = Reach(tuple(norms), block.disjoint)
    if solver is None or len(norms) == 1 or block.disjoint:
        return alone
    smallest = torch.finfo(rows.dtype).tiny
    sizes = torch.stack(list(norms)).clamp(min=smallest), torch.stack(list(radii)).clamp(min=smallest)
    weights = torch.sqrt(sizes[1] / sizes[0])
    factors = torch.cat([t[:, None].expand(-1, c[0].numel()) for c, t in zip(columns, weights, strict=True)], 1)
    kept = torch.cat([flat(c) for c in columns], 1)
    start = random_start(tuple(kept.shape), kept, seed) / factors  # uniform over the columns once they are weighted
    norm = solver(Masked(SideBySide(block.terms), rows, kept * factors), start)
    together = torch.where(norm.converged, norm.value, torch.inf)
    return Reach(tuple(norms), together=together, weights=weights)
