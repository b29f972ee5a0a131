"""Proofs that say how they were found: where each row stopped and what it chose on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from llcert.bounds import CheckerSlack, Trace
from llcert.bounds.ascent import Ascent
from llcert.bounds.dual import Backward, Choice, Fixed, Key, Stop, Tightest, differences
from llcert.bounds.margin import best_multiplier
from llcert.certify.proof_hint import ProofHint
from llcert.certify.specification import Specification
from llcert.ir import Node
from llcert.layout import flat
from llcert.program import Program

_LEAST = 1e-7
"""What a margin must exceed, of the largest logit: room for the arithmetic of whoever checks it."""


@dataclass(frozen=True)
class Row:
    """How the margin of one class was proved.

    stop: the value the row stopped at. choices: slopes `[*shape]` and multiplier `[]` of the steps above it. ends: the
    multipliers of what was left there; of the input only where its box counts.
    """

    stop: Node
    choices: Mapping[Key, Choice]
    ends: Mapping[Node, float]


@dataclass(frozen=True)
class Proof:
    """Lower bounds of margins, `[batch, logits]`, infinite for the reference's own; what is not above 0 is not proved.

    trace: the regions. rows: of every margin that is proved, by image of the batch and class. margin: of the claim,
    `[batch]`.
    """

    trace: Trace
    margins: Tensor
    rows: Mapping[tuple[int, int], Row]
    margin: Tensor


class Witness(Protocol):
    """Keeps what proofs were made of, for those who do not trust them."""

    def slack(self, program: Program, deployed: bool) -> CheckerSlack:
        """The room that a proof must leave. Raises UnsupportedModel where a proof cannot be kept.

        program: in float64. deployed: whether a proof speaks of the network as it is run, beside real numbers.
        """
        ...

    def keep(self, proof: Proof, labels: Tensor, indices: Tensor) -> None:
        """Is told of every proof; labels: the references. indices: of its images in the data set."""
        ...


def explained(
    backward: Backward, trace: Trace, labels: Tensor, hint: ProofHint, ascent: Ascent, specification: Specification
) -> Proof:
    """The proof of a plan: at the last hidden values, and from there on down to the image where the plan goes on."""
    program = backward.program
    directions = differences(labels, program)
    margins = torch.full_like(directions[:, 0], -torch.inf).scatter(1, labels[:, None], torch.inf)
    least = _LEAST * flat(trace.pre_activation[program.output].centre.abs()).amax(1)
    rows: dict[tuple[int, int], Row] = {}
    wanted = specification.rivals(labels, margins.shape[1], program.classes)
    # which rows can be spared shows at the last hidden values; only the others are worth the way down
    for step in (replace(hint, backward=False), hint) if specification.spare else (hint,):
        image, other = torch.nonzero(wanted, as_tuple=True)
        search = _Search(backward, step, ascent)
        every = torch.arange(len(image), device=program.device)
        for part in every.split(backward.rows_at_once) if len(every) else ():
            i, j = image[part], other[part]
            found, kept = search(trace.select(i), directions[i, j][:, None], least[i], (i, j))
            margins[i, j] = found
            rows |= {key: row for key, row in zip(zip(i.tolist(), j.tolist(), strict=True), kept, strict=True) if row}
        wanted = specification.open(margins, labels, program.classes)
    return Proof(trace, margins, rows, specification.margin(margins, labels, program.classes))


@dataclass(frozen=True)
class _Search:
    """Proves rows, one for each image of a trace."""

    backward: Backward
    hint: ProofHint
    ascent: Ascent

    def __call__(
        self, trace: Trace, rows: Tensor, least: Tensor, which: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, list[Row | None]]:
        """Lower bounds `[rows]`, and how they came about where they are above `least`. which: image and class."""
        margins = torch.full_like(least, -torch.inf)
        kept: list[Row | None] = [None] * len(least)

        def enter(where: Tensor, choices: Mapping[Key, Choice], stops: Mapping[Node, Stop]) -> None:
            margins[where] = torch.fmax(margins[where], torch.stack([s.bounds[:, 0] for s in stops.values()]).amax(0))
            for row, place in enumerate(where.tolist()):
                if kept[place] is None:
                    kept[place] = self._row(
                        trace.select(where[row : row + 1]), row, choices, stops, float(least[place])
                    )

        everything = torch.arange(len(least), device=rows.device)
        enter(everything, {}, self._last(trace, rows))
        if self.hint.backward:
            choices: Mapping[Key, Choice] = {}
            for attempt in (self._closed, self._repeated, self._ascended):
                still = torch.tensor([p for p, k in enumerate(kept) if k is None], device=rows.device).long()
                if len(still) == 0:
                    break
                choices = attempt(trace, rows, (which[0], which[1]), still)
                chosen = {k: Choice(_short(c.slopes), _short(c.lam)) for k, c in choices.items()}
                output = {self.backward.program.output: rows[still]}
                enter(still, chosen, self.backward.at_every_stop(trace.select(still), output, Fixed(chosen)))
        proved = torch.tensor([k is not None for k in kept], device=rows.device)
        return torch.where(proved, margins, margins.clamp(max=0)), kept

    def _last(self, trace: Trace, rows: Tensor) -> dict[Node, Stop]:
        """At the last hidden values, or at the logits where an activation gives them."""
        block = self.backward.program.blocks[-1]
        place = {b.node: n for n, b in enumerate(self.backward.program.blocks)}
        hidden = max(block.sources, key=lambda s: place.get(s, -1))
        stop = self.backward.last_stop(trace, {block.node: rows})
        return {block.node if block.activation is not None else hidden: stop}

    def _closed(self, trace: Trace, rows: Tensor, which: tuple[Tensor, Tensor], still: Tensor) -> dict[Key, Choice]:
        output = {self.backward.program.output: rows[still]}
        return dict(self.backward(trace.select(still), output, Tightest()).choices)

    def _repeated(self, trace: Trace, rows: Tensor, which: tuple[Tensor, Tensor], still: Tensor) -> dict[Key, Choice]:
        choices = self._closed(trace, rows, which, still)
        if self.hint.relaxation is not None:
            self.hint.relaxation.fill(choices, which[0][still], which[1][still])
        return choices

    def _ascended(self, trace: Trace, rows: Tensor, which: tuple[Tensor, Tensor], still: Tensor) -> dict[Key, Choice]:
        start = self._repeated(trace, rows, which, still)
        output = {self.backward.program.output: rows[still]}
        return self.ascent(self.backward, trace.select(still), output, start)[1]

    def _row(
        self, trace: Trace, row: int, choices: Mapping[Key, Choice], stops: Mapping[Node, Stop], least: float
    ) -> Row | None:
        """The first stop that suffices. trace: of this row alone."""
        for node, stop in stops.items():
            if not float(stop.bounds[row, 0]) > least:
                continue
            ends = {
                n: float(best_multiplier(-flat(a[row : row + 1], 2), trace.post_activation[n]))
                for n, a in stop.pending.items()
                if n is not self.backward.program.input or self.backward.clip
            }
            passed = {k: c for k, c in choices.items() if self._above(k[0], node)}
            return Row(node, {k: Choice(c.slopes[row, 0], c.lam[row, 0]) for k, c in passed.items()}, ends)
        return None

    def _above(self, block: int, stop: Node) -> bool:
        """Whether a row that stops there has passed a block."""
        numbers = [n for n, b in enumerate(self.backward.program.blocks) if b.node is stop]
        return not numbers or block > numbers[0]


def _short(x: Tensor) -> Tensor:
    """The nearest float32 numbers: any slopes and multipliers give a bound."""
    return x.float().double()
