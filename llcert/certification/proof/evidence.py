"""The evidence of proofs: regions, and for each objective where its row stops, its relaxations and multipliers.

An objective has evidence where slopes and multipliers rounded to float32 prove it, by a margin that leaves room for the
rounding of the checker (docs/certificate.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.bounds import Trace
from llcert.bounds.backward.branch_and_bound import Leaves, Splits, with_splits
from llcert.bounds.backward.choices import Choice, Choices, fixed
from llcert.bounds.backward.crown import Backward, BackwardBounds
from llcert.bounds.backward.intermediate import IntermediateBounds
from llcert.bounds.margin import best_multiplier
from llcert.certification.proof.attempts import Attempted, Objectives
from llcert.ir import Node
from llcert.numerics.tensors import flat

Pair = tuple[int, int]
"""An objective `z_y - z_j`: the position of its image in a batch, and the class j."""


@dataclass(frozen=True)
class Regions:
    """The regions over which objectives are bounded.

    trace: the forward pass of the proof. boxes: the intermediate bounds that its regions were cut to, by the blocks'
    nodes. first: the forward pass over whose regions these were computed; None where there are none.
    """

    trace: Trace
    boxes: Mapping[Node, IntermediateBounds] = field(default_factory=dict)
    first: Trace | None = None

    def select(self, images: Tensor) -> Regions:
        """The regions of some images; images: index."""
        first = None if self.first is None else self.first.select(images)
        return Regions(self.trace.select(images), {n: b.select(images) for n, b in self.boxes.items()}, first)


@dataclass(frozen=True)
class ObjectiveEvidence:
    """The evidence of one margin, over all of the ball or over parts that cover it.

    stop: the value at whose region the row stops, in every part. choices: slopes `[parts, *shape]` and multipliers
    `[parts]` of the relaxations above it, float32 numbers in float64. ends: multipliers of box and ball of each value
    that the row acts on where it stops, `[parts]`; for the image only where its box counts. splits: the parts; empty
    where there is one.
    """

    stop: Node
    choices: Choices
    ends: Mapping[Node, Tensor]
    splits: Splits = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """Proved margins of a batch.

    margins: lower bounds of `z_y - z_j`, `[batch, logits]`, infinite for j = y; NaN proves nothing. regions: of the
    forward pass. objectives: the evidence of each margin above 0, where evidence is kept.
    """

    margins: Tensor
    regions: Regions
    objectives: Mapping[Pair, ObjectiveEvidence] = field(default_factory=dict)

    def select(self, images: Tensor) -> Proof:
        """The proof of some images, which are then counted in this order; images: index."""
        place = {image: position for position, image in enumerate(images.tolist())}
        objectives = {(place[i], j): found for (i, j), found in self.objectives.items() if i in place}
        return Proof(self.margins[images], self.regions.select(images), objectives)


@dataclass(frozen=True)
class KeptProof:
    """The proof of some images of a data set, with its evidence.

    indices: of the images in the data set, `[images]`. references: y, `[images]`. margin: the deciding bound, positive,
    `[images]`. proof: of these images, in this order.
    """

    indices: Tensor
    references: Tensor
    margin: Tensor
    proof: Proof


def evidence_at_last_hidden(
    backward: Backward, trace: Trace, stop: BackwardBounds, classes: Tensor, least: Tensor
) -> dict[Pair, ObjectiveEvidence]:
    """The evidence of objectives whose rows stop at the last hidden values, or at logits behind an activation.

    stop: the bounds of the objectives of these classes there. least: what a bound has to exceed, `[batch]`.
    """
    block = backward.program.blocks[-1]
    place = {b.node: n for n, b in enumerate(backward.program.blocks)}
    hidden = max(block.sources, key=lambda s: place.get(s, -1))
    node = block.node if block.activation is not None else hidden
    ends = _ends(backward, trace, stop.linear.coefficients)
    return {
        (i, int(classes[c])): ObjectiveEvidence(node, {}, {n: lam[i, c : c + 1] for n, lam in ends.items()})
        for i, c in torch.nonzero(stop.lower > least[:, None]).tolist()
    }


def with_evidence(
    backward: Backward, objectives: Objectives, attempted: Attempted, least: Tensor
) -> tuple[Tensor, dict[Pair, ObjectiveEvidence]]:
    """The bounds that an attempt found, `[tried]`, above 0 only where they have evidence; and that evidence.

    objectives: all that the attempt was given. least: what each bound has to exceed, `[objectives]`.
    """
    tried, least = objectives.select(attempted.positions), least[attempted.positions]
    if len(tried) == 0:
        return attempted.bounds, {}
    if attempted.leaves is not None:
        found = dict(_in_all_parts(backward, tried, attempted.leaves, least))
    else:
        found = dict(_at_first_stop(backward, tried, attempted.choices, least))
    bounds = attempted.bounds.clamp(max=0)
    bounds[list(found)] = bounds.new_tensor([bound for bound, _ in found.values()])  # float64: nothing is rounded up
    pairs = list(zip(tried.images.tolist(), tried.classes.tolist(), strict=True))
    return bounds, {pairs[row]: proof for row, (_, proof) in found.items()}


_Recorded = Iterator[tuple[int, tuple[float, ObjectiveEvidence]]]
"""The number of an objective, its bound, and its evidence."""


def _at_first_stop(backward: Backward, tried: Objectives, choices: Choices, least: Tensor) -> _Recorded:
    """Objectives that are proved at a stop between the logits and the image: each at the first one that suffices."""
    choices = _short(choices)
    stops = backward.at_every_stop(tried.trace, {backward.program.output: tried.directions}, fixed(choices))
    bounds = torch.stack([s.lower[:, 0] for s in stops.values()]).nan_to_num(-torch.inf)
    enough = bounds > least
    first = torch.where(enough.any(0), enough.int().argmax(0), -1)
    best = bounds.amax(0).tolist()
    for number, (node, stop) in enumerate(stops.items()):
        rows = torch.nonzero(first == number)[:, 0]
        if len(rows) == 0:
            continue
        ends = _ends(backward, tried.trace.select(rows), {n: a[rows] for n, a in stop.linear.coefficients.items()})
        passed = {k: c for k, c in choices.items() if _above(backward, k[0], node)}
        for place, row in enumerate(rows.tolist()):
            relaxed = {k: Choice(c.slopes[row], c.lam[row]) for k, c in passed.items()}
            yield row, (best[row], ObjectiveEvidence(node, relaxed, {n: lam[place] for n, lam in ends.items()}))


def _in_all_parts(backward: Backward, tried: Objectives, leaves: Leaves, least: Tensor) -> _Recorded:
    """Objectives that are proved in every part of a cover, each on its way down to the image."""
    for row in leaves.rows.unique().tolist():
        cover = leaves.select(leaves.rows == row)
        each = tried.select(cover.rows)
        trace, choices = with_splits(backward, each.trace, cover.splits), _short(cover.choices)
        found = backward(trace, {backward.program.output: each.directions}, fixed(choices))
        worst = found.lower.amin()
        if not bool(worst > least[row]):
            continue
        ends = {n: lam[:, 0] for n, lam in _ends(backward, trace, found.linear.coefficients).items()}
        parts = {k: Choice(c.slopes[:, 0], c.lam[:, 0]) for k, c in choices.items()}
        splits = cover.splits if len(cover) > 1 else {}
        yield row, (float(worst), ObjectiveEvidence(backward.program.input, parts, ends, splits))


def _ends(backward: Backward, trace: Trace, pending: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
    """The best multipliers of box and ball for rows that stop, `[batch, rows]`; none for the image's ball alone."""
    return {
        n: best_multiplier(-flat(a, 2), trace.post_activation[n])
        for n, a in pending.items()
        if n is not backward.program.input or backward.clip
    }


def _above(backward: Backward, block: int, stop: Node) -> bool:
    """Whether a row that stops at a value has passed a block on its way down."""
    numbers = [n for n, b in enumerate(backward.program.blocks) if b.node is stop]
    return not numbers or block > numbers[0]


def _short(choices: Choices) -> Choices:
    """The nearest float32 numbers, in float64: any slopes and any multipliers >= 0 give a bound."""
    return {k: Choice(c.slopes.float().double(), c.lam.float().double()) for k, c in choices.items()}
