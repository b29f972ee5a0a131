"""Global Lipschitz constants: norms of whole maps, multiplied through the graph, and LipLT (docs/method.md, sections 5
and 6).

One recursion over the blocks, for estimates over tensors (`estimate.py` beside this file) and for proofs over numbers
that are rounded up (`proof.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from torch import Tensor

from llcert.bounds.liplt import Number, Origin, constant_at
from llcert.ir import Node
from llcert.program import Block, Program, Term
from llcert.spectral import Side


@dataclass(frozen=True)
class GlobalBound:
    """Unmasked norms of every term and the Lipschitz constants they multiply to (eq. 2, for any graph).

    norms: scalars, the activation's largest slope included. vectors: right singular vectors `[1, *columns]`. Both are
    keyed by term, and a term names its block, so that two activations of one value have two norms. lipschitz: Lipschitz
    constant of every block's output with respect to the image, scalars, keyed by the block's own node. pairs: Lipschitz
    constants of the differences of logits by LipLT, `[logits, logits]`; None where it was not asked for, or the network
    ends in an activation. includes_liplt: whether `lipschitz` is the least of the product and LipLT, else the product
    alone. side: how the norms err.
    """

    norms: dict[Term, Tensor]
    vectors: dict[Term, Tensor]
    lipschitz: dict[Node, Tensor]
    output: Node
    side: Side
    pairs: Tensor | None = None
    includes_liplt: bool = False

    @property
    def logit_lipschitz(self) -> Tensor:
        """Lipschitz constant of the logits, a scalar."""
        return self.lipschitz[self.output]


class ConstantsArithmetic(Protocol[Number]):
    """How the Lipschitz constant of a block, with respect to the image, follows from those of earlier values."""

    @property
    def one(self) -> Number:
        """The constant of the image: one."""
        ...

    def product(self, block: Block, sources: Sequence[Number]) -> Number:
        """The constant of a block's output by the norms of its terms, slopes included (Proposition 5.2).

        sources: the constants of the values that the block reads.
        """
        ...

    def product_before(self, block: Block, sources: Sequence[Number], product: Number) -> Number:
        """The same of the block's value before its activation, without slopes. product: that of its output."""
        ...

    def by_liplt(self, block: Block, constants: Mapping[Origin, Number]) -> Number:
        """The constant of that value by LipLT, (6.1): norms of composed maps times constants at their origins."""
        ...

    def passed(self, block: Block, constant: Number) -> Number:
        """The constant of a block's output from that of its value before the activation."""
        ...

    def least(self, one: Number, other: Number) -> Number:
        """The smaller of two bounds."""
        ...


@dataclass(frozen=True)
class Constants(Generic[Number]):
    """Lipschitz constants by the nodes of blocks. after: of outputs, and of the image. before: of values before the
    activation; empty without LipLT."""

    after: dict[Node, Number]
    before: dict[Node, Number]


def lipschitz_constants(
    program: Program, arithmetic: ConstantsArithmetic[Number], maps: Mapping[Node, Mapping[Origin, Term]]
) -> Constants[Number]:
    """The constants of all blocks. maps: the composed maps to blocks whose constants LipLT may lower."""
    after, before = {program.input: arithmetic.one}, dict[Node, Number]()
    for block in program.blocks:
        sources = [after[s] for s in block.sources]
        constant = arithmetic.product(block, sources)
        if block.node in maps:
            at_origins = {origin: constant_at(origin, arithmetic.one, before, after) for origin in maps[block.node]}
            product = arithmetic.product_before(block, sources, constant)
            before[block.node] = arithmetic.least(arithmetic.by_liplt(block, at_origins), product)
            constant = arithmetic.least(constant, arithmetic.passed(block, before[block.node]))
        after[block.node] = constant
    return Constants(after, before)
