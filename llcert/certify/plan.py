"""How an estimate got its certificates: what a proof of them repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds import RowWeighting
from llcert.bounds.branching import Leaves
from llcert.bounds.dual import Choice, Key


@dataclass(frozen=True)
class Carried:
    """Rows `e_y - e_j` that an ascent carried down to the image, and what it chose on the way.

    images, classes: which rows, `[rows]`; an image counts by its place in the batch, and no pair occurs twice. choices:
    of each, `[rows, 1, ...]`. They are hints: any choices give a bound.
    """

    images: Tensor
    classes: Tensor
    choices: Mapping[Key, Choice]

    @staticmethod
    def joined(parts: Sequence[Carried]) -> Carried | None:
        """The rows of several; None of none."""
        if not parts:
            return None
        choices = {
            k: Choice(torch.cat([p.choices[k].slopes for p in parts]), torch.cat([p.choices[k].lam for p in parts]))
            for k in parts[0].choices
        }
        return Carried(torch.cat([p.images for p in parts]), torch.cat([p.classes for p in parts]), choices)

    def find(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these rows are among the carried: their positions here, and there."""
        known = {pair: i for i, pair in enumerate(zip(self.images.tolist(), self.classes.tolist(), strict=True))}
        there = [known.get(pair, -1) for pair in zip(images.tolist(), classes.tolist(), strict=True)]
        found = torch.tensor(there, dtype=torch.int64, device=images.device)
        here = torch.nonzero(found >= 0)[:, 0]
        return here, found[here]

    def fill(self, choices: Mapping[Key, Choice], images: Tensor, classes: Tensor) -> None:
        """Puts what was chosen for these rows in place of what `choices`, in float64, holds for them."""
        here, there = self.find(images, classes)
        for key, known in self.choices.items():
            choices[key].slopes[here] = known.slopes[there].double()
            choices[key].lam[here] = known.lam[there].double()

    def select(self, positions: Tensor) -> Carried:
        """The rows of some images, which are then counted in this order; positions: index."""
        kept, images = _among(self.images, positions)
        choices = {k: Choice(c.slopes[kept], c.lam[kept]) for k, c in self.choices.items()}
        return Carried(images, self.classes[kept], choices)


@dataclass(frozen=True)
class Branched:
    """Rows `e_y - e_j` and the parts of the ball that cover it for each: `leaves.rows` counts the rows.

    images, classes: which rows, `[rows]`.
    """

    images: Tensor
    classes: Tensor
    leaves: Leaves

    def select(self, positions: Tensor) -> Branched:
        """The rows of some images, which are then counted in this order; positions: index."""
        kept, images = _among(self.images, positions)
        leaf, rows = _among(self.leaves.rows, kept)
        return Branched(images, self.classes[kept], replace(self.leaves.select(leaf), rows=rows))


def _among(values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where values lie among the wanted ones, and their positions there."""
    largest = int(torch.cat((values, wanted, values.new_zeros(1))).max())
    place = torch.full((largest + 1,), -1, device=values.device)
    place[wanted] = torch.arange(len(wanted), device=values.device)
    kept = torch.nonzero(place[values] >= 0)[:, 0]
    return kept, place[values[kept]]


@dataclass(frozen=True)
class Plan:
    """One way to a margin.

    local: whether norms are each image's own. weighting: how they weight rows. boxes: whether boxes come from the
    backward pass. backward: whether rows that do not suffice at the last hidden values go on down to the image.
    carried: choices for some of them. branched: parts of the ball for some of them. looped: whether global norms are by
    LipLT too.
    """

    local: bool
    weighting: RowWeighting = RowWeighting.MASK
    boxes: bool = False
    backward: bool = False
    carried: Carried | None = field(default=None, compare=False)
    branched: Branched | None = field(default=None, compare=False)
    looped: bool = False

    def select(self, positions: Tensor) -> Plan:
        """The plan for some images; positions: index."""
        carried, branched = self.carried, self.branched
        return replace(
            self,
            carried=None if carried is None else carried.select(positions),
            branched=None if branched is None else branched.select(positions),
        )
