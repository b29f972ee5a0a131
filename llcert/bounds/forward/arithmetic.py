"""What the forward propagation asks of its arithmetic, which estimates or proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llcert.bounds.forward.box import Hidden
from llcert.bounds.forward.joins import BranchNorms
from llcert.bounds.forward.roundoff import BlockRoundoff
from llcert.bounds.forward.row_weights import RowWeighting
from llcert.domain.region import Region
from llcert.ir import Node
from llcert.program import Block
from llcert.spectral import Masked, Norm, Side, Solver


@dataclass(frozen=True)
class BlockInput:
    """A block, and what is known where it begins.

    number: its place in the program. sources: regions and masks of the values it reads, in the order of its terms.
    radii: of these, `[batch]` each. roundoff: of those that are outputs of blocks; None for an estimate. eps: radius of
    the image's ball, `[batch]`.
    """

    block: Block
    number: int
    sources: Mapping[Node, Hidden]
    radii: Sequence[Tensor]
    roundoff: Mapping[Node, BlockRoundoff | None]
    eps: Tensor


class Arithmetic(Protocol):
    """The steps of a forward propagation through one block, `h = phi(z)`, `z = sum over s of A_s h_s + b`.

    Two implement it: `EstimatedArithmetic`, which is differentiable, and `VerifiedArithmetic`, in float64, which rounds
    outwards. Wherever a step gives a BlockRoundoff, an estimate gives None, and is given None back.
    """

    @property
    def side(self) -> Side:
        """Which side of the truth the norms lie on that were known before."""
        ...

    @property
    def local(self) -> bool:
        """Whether radii come from norms of each image's masked maps; else `norm` is not asked."""
        ...

    @property
    def joint_solver(self) -> Solver | None:
        """What finds the norms of terms side by side (Proposition 5.2 iii); None: their sum will do."""
        ...

    @property
    def seed(self) -> int | Tensor:
        """Of random starts, one or `[batch]`."""
        ...

    def affine_image(self, entry: BlockInput) -> tuple[Region, BlockRoundoff | None]:
        """The box of z around its value at the image (docs/method.md, section 3), and what an evaluation rounds."""
        ...

    def row_weights(self, block: Block, z: Region, weighting: RowWeighting) -> Tensor:
        """Upper bounds of the slopes of phi over z, `[batch, *pre shape]` (section 4)."""
        ...

    def norm(self, masked: Masked, entry: BlockInput) -> Norm:
        """Of a term's masked map, at most its global norm, which stands in where none was found."""
        ...

    def radius(
        self, entry: BlockInput, branches: BranchNorms, weights: Tensor, roundoff: BlockRoundoff | None
    ) -> Tensor:
        """Upper bounds of `||weights (z - centre)||`, `[batch]`, at most what the global bound says."""
        ...

    def lipschitz(self, entry: BlockInput, branches: BranchNorms, sources: Mapping[Node, Tensor]) -> Tensor | None:
        """Lipschitz constant of h with respect to the image, `[batch]`, of those of its sources; None: not known."""
        ...

    def activation_image(
        self, entry: BlockInput, z: Region, radius: Tensor, roundoff: BlockRoundoff | None
    ) -> tuple[Hidden, BlockRoundoff | None]:
        """Region and mask of h, for z in its box and within the radius (Propositions 3.4 and 3.5)."""
        ...
