"""Blocks of several sources: how far their value deviates from its centre, where terms add up and where they are
concatenated (docs/method.md, Proposition 5.2).

For both arithmetics of the forward propagation, and for estimates of global constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat, length
from llcert.program import Block, Term
from llcert.spectral import Masked, Side, Solver, random_start


@dataclass(frozen=True)
class JointNorm:
    """The norm of a block's weighted terms side by side, `||diag(w) [t_1 A_1 diag(v_1), t_2 A_2 diag(v_2), ...]||`.

    value: `[batch]`, infinite where none was found. weights: the t, `[terms, batch]`. side: of the truth, on which
    value lies.
    """

    value: Tensor
    weights: Tensor
    side: Side


@dataclass(frozen=True)
class TermNorms:
    """The norms of a block's terms, and of all of them side by side where that may give a smaller bound.

    norms: one for each term, `[batch]`; empty where none was computed. disjoint: whether the terms fill different rows
    (a concatenation). joint: None where it was not computed.
    """

    norms: tuple[Tensor, ...]
    disjoint: bool = False
    joint: JointNorm | None = None

    def deviation(self, radii: Sequence[Tensor]) -> Tensor:
        """How far the weighted value is from its centre at most, `[batch]`, where source s deviates by `radii[s]`.

        An upper bound if the norms are. The least that Proposition 5.2 gives: the sum of norm times radius, or the root
        of the sum of squares where rows are disjoint; or `||[t_s A_s]_s|| sqrt(sum (r_s / t_s)^2)`. Infinite without
        norms.
        """
        if not self.norms:
            return torch.full_like(radii[0], torch.inf)
        parts = torch.stack([n * r for n, r in zip(self.norms, radii, strict=True)])
        if self.disjoint:
            return length(parts.T)
        total = parts.sum(0)
        if self.joint is None:
            return total
        together = self.joint.value * length((torch.stack(list(radii)) / self.joint.weights).T)
        return torch.where(together < total, together, total)


def term_norms(
    block: Block,
    rows: Tensor,
    columns: Sequence[Tensor],
    norms: Sequence[Tensor],
    radii: Sequence[Tensor],
    solver: Solver | None,
    seed: int | Tensor,
) -> TermNorms:
    """The norms of a block's terms, with their joint norm where terms add up and there is a solver for it.

    rows, columns: factors w and v of the maps, `[batch, *shape]`. norms: of each term, radii: of each source,
    `[batch]`. The weights `t_s = sqrt(r_s / norm_s)` never do worse than the sum: the joint norm is at most
    `sqrt(sum norm_s^2 t_s^2)`.
    """
    if solver is None or len(norms) == 1 or block.disjoint:
        return TermNorms(tuple(norms), block.disjoint)
    smallest = torch.finfo(rows.dtype).tiny
    sizes = torch.stack(list(norms)).clamp(min=smallest), torch.stack(list(radii)).clamp(min=smallest)
    weights = torch.sqrt(sizes[1] / sizes[0])
    factors = torch.cat([t[:, None].expand(-1, c[0].numel()) for c, t in zip(columns, weights, strict=True)], 1)
    kept = torch.cat([flat(c) for c in columns], 1)
    start = random_start(tuple(kept.shape), kept, seed) / factors  # uniform over the columns once they are weighted
    norm = solver(Masked(SideBySide(block.terms), rows, kept * factors), start)
    value = torch.where(norm.converged, norm.value, torch.inf)
    return TermNorms(tuple(norms), joint=JointNorm(value, weights, norm.side))


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
        return DOUBLE.above(sum(t.underflow for t in self.terms), len(self.terms))

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
