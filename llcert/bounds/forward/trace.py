"""The result of a forward propagation: regions, masks, norms and Lipschitz constants of every value of a network.

For margins, the backward pass and reports; docs/method.md, sections 3 to 5, rounding: section 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from llcert.bounds.forward.joins import JointNorm
from llcert.bounds.forward.roundoff import BlockRoundoff
from llcert.domain.region import MaskedRegion, Region
from llcert.domain.relaxation import Relaxation, Zone
from llcert.ir import Node
from llcert.program import Block, Term
from llcert.spectral import Norm, Side


@dataclass(frozen=True)
class Trace:
    """Outer bounds of every value of a network over the ball of each image: an estimate, or a proof (`side`).

    pre_activation: the region of each block's value z before its activation (radius: infinite). weighted: row weights
    of z, `[batch, *pre shape]`, and a radius, `[batch]`, with `||weights (z - centre)|| <= radius`. post_activation:
    region and mask of each block's output, and of the input. norms: of each term's masked map, `[batch]`; empty where
    radii come from global norms or boxes. joint: the norm of each block's terms side by side, where it was computed.
    lipschitz: Lipschitz constant of every block's output with respect to the image on each ball, `[batch]` (eq. 6), and
    1 for the input; empty with boxes alone, with secant weights, which bound deviation from the image only, and for a
    proof. logit_lipschitz: that of the logits, None where lipschitz is empty. side: the weakest side among the norms
    used. roundoff: the rounding errors of every block; None for an estimate, which does not pay for rounding. splits:
    where the trace stands for a part of the ball (branch and bound), lower and upper ends, `[batch, *shape]`, that the
    box of a relaxation is intersected with, by the block's node and the number of the relaxation.

    Nodes are compared by identity, and a block's node is its own, so what is keyed by block.node has one owner; a term
    is told apart by its block (see Term).
    """

    pre_activation: Mapping[Node, Region] = field(default_factory=dict)
    weighted: Mapping[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)
    post_activation: Mapping[Node, MaskedRegion] = field(default_factory=dict)
    norms: Mapping[Term, Norm] = field(default_factory=dict)
    joint: Mapping[Node, JointNorm] = field(default_factory=dict)
    lipschitz: Mapping[Node, Tensor] = field(default_factory=dict)
    logit_lipschitz: Tensor | None = None
    side: Side = Side.ESTIMATE
    roundoff: Mapping[Node, BlockRoundoff] | None = None
    splits: Mapping[tuple[Node, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _relaxations: dict[Node, tuple[Relaxation, ...] | None] = field(default_factory=dict, init=False, repr=False)

    def relaxations(self, block: Block) -> tuple[Relaxation, ...] | None:
        """The relaxations of a block's activation, first applied first, over the region in front of it and its splits.

        Empty without an activation; None for one that has no relaxation. Computed once for every block.
        """
        if block.activation is None:
            return ()
        if block.node not in self._relaxations:
            z = self.pre_activation[block.node]
            known = block.activation.relaxations(Zone(z.centre, z.lower, z.upper, *self.weighted[block.node]))
            self._relaxations[block.node] = None if known is None else self._split(block.node, known)
        return self._relaxations[block.node]

    def _split(self, node: Node, relaxations: tuple[Relaxation, ...]) -> tuple[Relaxation, ...]:
        boxes = [self.splits.get((node, i)) for i in range(len(relaxations))]
        return tuple(r if b is None else r.on_box(*b) for r, b in zip(relaxations, boxes, strict=True))

    def select(self, images: Tensor) -> Trace:
        """The trace of some images; images: mask or index."""
        return replace(
            self,
            pre_activation={n: z.select(images) for n, z in self.pre_activation.items()},
            weighted={n: (w[images], r[images]) for n, (w, r) in self.weighted.items()},
            post_activation={n: h.select(images) for n, h in self.post_activation.items()},
            norms={t: n.select(images) for t, n in self.norms.items()},
            joint={n: JointNorm(j.value[images], j.weights[:, images], j.side) for n, j in self.joint.items()},
            lipschitz={n: g[images] for n, g in self.lipschitz.items()},
            logit_lipschitz=None if self.logit_lipschitz is None else self.logit_lipschitz[images],
            roundoff=None if self.roundoff is None else {n: _select(r, images) for n, r in self.roundoff.items()},
            splits={k: (low[images], high[images]) for k, (low, high) in self.splits.items()},
        )


def _select(roundoff: BlockRoundoff, images: Tensor) -> BlockRoundoff:
    return BlockRoundoff(*(part[images] for part in vars(roundoff).values()))
