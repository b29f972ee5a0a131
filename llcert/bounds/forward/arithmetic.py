"""The interface between the forward propagation and its arithmetic, which estimates or proves (docs/method.md, sections
3 to 5 and 12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llcert.bounds.forward.joins import TermNorms
from llcert.bounds.forward.roundoff import BlockRoundoff
from llcert.bounds.forward.row_weights import RowWeighting
from llcert.domain.region import MaskedRegion, Region
from llcert.ir import Node
from llcert.program import Block
from llcert.spectral import Masked, Norm, Side, Solver


@dataclass(frozen=True)
class BlockInput:
    """A block, and what is known of the values it reads.

    number: of the block in its program. sources: regions and masks of these values, in the order of the block's terms.
    radii: of these regions, `[batch]` each. roundoff: of those values that are outputs of blocks; None for an estimate.
    eps: radius of the image's ball, `[batch]`.
    """

    block: Block
    number: int
    sources: Mapping[Node, MaskedRegion]
    radii: Sequence[Tensor]
    roundoff: Mapping[Node, BlockRoundoff | None]
    eps: Tensor


class Arithmetic(Protocol):
    """The steps of a forward propagation through one block, `h = phi(z)`, `z = sum over s of A_s h_s + b`.

    Two implement it: `EstimatedArithmetic`, which is differentiable, and `VerifiedArithmetic`, in float64, which rounds
    outwards. An estimate has None wherever a proof has a BlockRoundoff.
    """

    @property
    def side(self) -> Side:
        """The side of the truth on which the global norms lie, which stand in for local ones."""
        ...

    @property
    def asks_norms(self) -> bool:
        """Whether radii come from norms of the masked maps, so that the propagation asks for these (`norm`)."""
        ...

    @property
    def joint_solver(self) -> Solver | None:
        """The solver of the norms of terms side by side (Proposition 5.2 iii); None: their sum stands in."""
        ...

    @property
    def seed(self) -> int | Tensor:
        """The seed of random starts, one for all images or one each, `[batch]`."""
        ...

    def affine_image(self, inputs: BlockInput) -> tuple[Region, BlockRoundoff | None]:
        """The box of z around its value at the image (docs/method.md, section 3), and the rounding errors of z."""
        ...

    def row_weights(self, block: Block, z: Region, weighting: RowWeighting) -> Tensor:
        """Upper bounds of the slopes of phi over z, `[batch, *pre shape]` (section 4)."""
        ...

    def norm(self, masked: Masked, inputs: BlockInput) -> Norm:
        """The norm of a term's masked map; the global norm of the term where that is less or none was found."""
        ...

    def radius(self, inputs: BlockInput, norms: TermNorms, weights: Tensor, roundoff: BlockRoundoff | None) -> Tensor:
        """Upper bounds of `||weights (z - centre)||`, `[batch]`, at most those by the global Lipschitz constant."""
        ...

    def lipschitz(self, inputs: BlockInput, norms: TermNorms, sources: Mapping[Node, Tensor]) -> Tensor | None:
        """The Lipschitz constant of h with respect to the image, `[batch]`; None where none is computed.

        sources: the constants of the values that the block reads.
        """
        ...

    def activation_image(
        self, inputs: BlockInput, z: Region, radius: Tensor, roundoff: BlockRoundoff | None
    ) -> tuple[MaskedRegion, BlockRoundoff | None]:
        """Region and mask of h, for z in its box and within the radius (Propositions 3.4 and 3.5)."""
        ...
