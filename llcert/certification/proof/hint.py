"""Hints that an estimate leaves for the proof of its certificates: which bounds it used, and what it optimised.

A hint is never trusted: the prover evaluates the bound it names, in float64 with every rounding paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import RowWeighting
from llcert.bounds.backward.branch_and_bound import Leaves
from llcert.bounds.backward.choices import Choice, Choices


@dataclass(frozen=True)
class FixedRelaxation:
    """Slopes and multipliers of the linear relaxations that an ascent optimised (alpha-CROWN), fixed for a proof.

    images, classes: of each objective `z_y - z_j`, `[objectives]`: the position of its image in the batch, and j; no
    pair occurs twice. choices: for each, `[objectives, 1, ...]`. Any slopes and multipliers >= 0 give a sound bound.
    """

    images: Tensor
    classes: Tensor
    choices: Choices

    @staticmethod
    def joined(parts: Sequence[FixedRelaxation]) -> FixedRelaxation | None:
        """The objectives of several; None of none."""
        if not parts:
            return None
        choices = {
            k: Choice(torch.cat([p.choices[k].slopes for p in parts]), torch.cat([p.choices[k].lam for p in parts]))
            for k in parts[0].choices
        }
        return FixedRelaxation(torch.cat([p.images for p in parts]), torch.cat([p.classes for p in parts]), choices)

    def find(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these objectives are here: their positions among the arguments, and among `self.images`."""
        return _matched((self.images, self.classes), (images, classes))

    def filled(self, choices: Choices, images: Tensor, classes: Tensor) -> Choices:
        """The choices for these objectives, in float64, those that were optimised in place of what was given."""
        here, there = self.find(images, classes)
        found = {k: Choice(c.slopes.clone(), c.lam.clone()) for k, c in choices.items()}
        for key, optimised in self.choices.items():
            found[key].slopes[here] = optimised.slopes[there].double()
            found[key].lam[here] = optimised.lam[there].double()
        return found

    def select(self, positions: Tensor) -> FixedRelaxation:
        """The objectives of some images, which are then counted in this order; positions: index."""
        kept, images = _among(self.images, positions)
        choices = {k: Choice(c.slopes[kept], c.lam[kept]) for k, c in self.choices.items()}
        return FixedRelaxation(images, self.classes[kept], choices)


@dataclass(frozen=True)
class BranchCover:
    """The leaves of a branch and bound that together cover the ball, for each objective `z_y - z_j`.

    images, classes: of the objectives, `[objectives]`. leaves: `leaves.rows` says which objective each belongs to.
    """

    images: Tensor
    classes: Tensor
    leaves: Leaves

    def find(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these objectives are here: their positions among the arguments, and among `self.images`."""
        return _matched((self.images, self.classes), (images, classes))

    def select(self, positions: Tensor) -> BranchCover:
        """The objectives of some images, which are then counted in this order; positions: index."""
        kept, images = _among(self.images, positions)
        leaf, rows = _among(self.leaves.rows, kept)
        return BranchCover(images, self.classes[kept], replace(self.leaves.select(leaf), rows=rows))


def _matched(pairs: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Which of the pairs asked for are among these: their positions among those asked for, and among these."""
    place = {pair: i for i, pair in enumerate(zip(*(p.tolist() for p in pairs), strict=True))}
    there = [place.get(pair, -1) for pair in zip(*(p.tolist() for p in asked), strict=True)]
    found = torch.tensor(there, dtype=torch.int64, device=asked[0].device)
    here = torch.nonzero(found >= 0)[:, 0]
    return here, found[here]


def _among(values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of the values that are wanted, and the position of each among the wanted ones."""
    largest = int(torch.cat((values, wanted, values.new_zeros(1))).max())
    place = torch.full((largest + 1,), -1, device=values.device)
    place[wanted] = torch.arange(len(wanted), device=values.device)
    kept = torch.nonzero(place[values] >= 0)[:, 0]
    return kept, place[values[kept]]


@dataclass(frozen=True)
class ProofHint:
    """One way to prove margins.

    local: whether norms are those of each image's masked maps (eq. 6 of the paper), else the global ones. weighting:
    row weights of local norms. intermediate: whether pre-activation bounds come from backward passes, too. backward:
    whether objectives that are not proved at the last hidden values are bounded by the backward pass. relaxation,
    cover: what the estimate found for that backward pass and some of the objectives, slopes and multipliers or a branch
    cover; hints that differ in these alone are equal. liplt: whether global bounds are by LipLT, too, where that helps
    (`Prover.liplt`).
    """

    local: bool
    weighting: RowWeighting = RowWeighting.SLOPE
    intermediate: bool = False
    backward: bool = False
    relaxation: FixedRelaxation | None = field(default=None, compare=False)
    cover: BranchCover | None = field(default=None, compare=False)
    liplt: bool = False

    @property
    def forward_passes(self) -> int:
        """How many forward passes with local norms a proof by this hint takes."""
        return 0 if not self.local else 2 if self.intermediate else 1

    def select(self, positions: Tensor) -> ProofHint:
        """The hint for some images; positions: index."""
        relaxation, cover = self.relaxation, self.cover
        return replace(
            self,
            relaxation=None if relaxation is None else relaxation.select(positions),
            cover=None if cover is None else cover.select(positions),
        )
