"""How far a block's output can move when several sources move at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.layout import flat
from llcert.program import Block, Term
from llcert.region import length
from llcert.rounding import DOUBLE
from llcert.spectral import Masked, Solver, random_start


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
    """The block's reach, with one more norm where branches add up and there is a solver for it.

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


@dataclass(frozen=True)
class SideBySide:
    """`[A_1, A_2, ...]`: the terms of a block as one map of all its sources, flattened and concatenated."""

    terms: tuple[Term, ...]

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each source."""
        return [torch.Size(t.columns).numel() for t in self.terms]

    @property
    def columns(self) -> tuple[int, ...]:
        return (sum(self.sizes),)

    @cached_property
    def roundings(self) -> int:
        """Those of the deepest term, and one for each term that is added."""
        return max(t.roundings for t in self.terms) + len(self.terms)

    @cached_property
    def underflow(self) -> float:
        """Those of all terms together, and one underflow for each sum."""
        return DOUBLE.bound(sum(t.underflow for t in self.terms), len(self.terms))

    def apply(self, x: Tensor) -> Tensor:
        """`sum A_s x_s`; x: `[batch, all entries]`."""
        return self._sum(x, Term.apply)

    def magnitude(self, x: Tensor) -> Tensor:
        """`sum N_s x_s`, N_s as in `Term.magnitude`; x >= 0."""
        return self._sum(x, Term.magnitude)

    def paths(self, x: Tensor) -> Tensor:
        """`sum P_s x_s`, P_s as in `Term.paths`."""
        return self._sum(x, Term.paths)

    def _sum(self, x: Tensor, action: Callable[[Term, Tensor], Tensor]) -> Tensor:
        pairs = zip(self.terms, x.split(self.sizes, 1), strict=True)
        return torch.stack([action(t, part.reshape(len(part), *t.columns)) for t, part in pairs]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        """`[batch, all entries]`."""
        return torch.cat([flat(t.adjoint(y)) for t in self.terms], 1)
