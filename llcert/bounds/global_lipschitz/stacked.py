"""Products with all composed maps of LipLT at once, for a training step: vectors that pass a node are one batch there.

docs/decisions/training-step.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llcert.bounds.forward.row_weights import global_slopes
from llcert.bounds.liplt import Composed, Origin
from llcert.ir import Join, LinearOp, Node, topological
from llcert.numerics import gradients
from llcert.numerics.tensors import channels_last, flat, length
from llcert.ops import Add
from llcert.program import Block, Program, Term


@dataclass(frozen=True)
class KnownNorms:
    """What products with given unit vectors u say about norms: ESTIMATES from below, with gradients.

    composed: `||A u||`, a scalar, and u of composed maps. without_slopes: `A u`, `[1, *output shape]`, and u of terms
    of the program, without slopes. apart: for every origin of the logits the lengths of differences of rows of its
    composed map, `[logits, logits]`; where they are given, the norms of these maps are not asked for.
    """

    composed: Mapping[Term, tuple[Tensor, Tensor]]
    without_slopes: Mapping[Term, tuple[Tensor, Tensor]]
    apart: Mapping[Origin, Tensor] | None = None


NOTHING = KnownNorms({}, {})


@dataclass(frozen=True)
class Direct:
    """A composed map that is a term of the program times a factor above 0: `||J|| = factor ||A||`."""

    term: Term
    composed: Term
    factor: float


@dataclass(frozen=True)
class Stacked:
    """The composed maps of a program but those to the logits, of which differences of rows are wanted alone.

    terms: the row order of every batch: maps that end late come first. rows: for each node that they pass, inputs
    before users, the terms that pass it, by number. direct: the terms of the program whose norms follow.
    """

    program: Program
    composed: Composed
    terms: tuple[Term, ...]
    rows: Mapping[Node, tuple[int, ...]]
    direct: tuple[Direct, ...]

    @staticmethod
    def of(program: Program, composed: Composed) -> Stacked | None:
        """None where the network ends in an activation, behind which pairs of logits have no constants of their own."""
        if program.blocks[-1].activation is not None:
            return None
        inner = [maps for node, maps in composed.maps.items() if node is not program.output]
        terms = [t for maps in inner for t in maps.values() if not t.is_scaled_permutation]
        order = {n: i for i, n in enumerate(dict.fromkeys(n for t in terms for n in topological(t.output)))}
        terms.sort(key=lambda t: -order[t.output])
        passed = {n: tuple(i for i, t in enumerate(terms) if n is t.source or n in t.nodes) for n in order}
        rows = {n: numbers for n, numbers in passed.items() if numbers}
        direct = [d for b in program.blocks if b.node is not program.output for d in _directs(program, composed, b)]
        return Stacked(program, composed, tuple(terms), rows, tuple(direct))

    def known(self, vectors: Mapping[Term, Tensor]) -> KnownNorms:
        """By one product with each map. vectors: unit vectors of `terms`, `[1, *columns]`."""
        images = self._images(vectors)
        composed: dict[Term, tuple[Tensor, Tensor]] = {}
        single: dict[Term, Tensor] = {}
        for terms, image in images:
            sizes = length(image).unbind()
            composed |= {t: (size, vectors[t]) for t, size in zip(terms, sizes, strict=True)}
            single |= dict(zip(terms, image.split(1), strict=True))
        without_slopes = {d.term: (single[d.composed] / d.factor, vectors[d.composed]) for d in self.direct}
        return KnownNorms(composed, without_slopes, self._apart())

    def _images(self, vectors: Mapping[Term, Tensor]) -> list[tuple[list[Term], Tensor]]:
        """The values at each output, `[terms, *output shape]`, of the terms that end there."""
        values: dict[Node, Tensor] = {}
        ending: list[tuple[list[Term], Tensor]] = []
        for node, wanted in self.rows.items():
            if node.inputs:
                values[node] = channels_last(_value(node, values, self.rows))
            else:
                values[node] = channels_last(torch.cat([vectors[self.terms[i]] for i in wanted]))
            last = tuple(i for i in wanted if self.terms[i].output is node)
            if last:
                ending.append(([self.terms[i] for i in last], _gathered([(values[node], wanted)], last)))
        return ending

    def _apart(self) -> dict[Origin, Tensor]:
        """By one adjoint of the network with every remainder's factor on the way."""
        terms = self.composed.maps[self.program.output]
        unit = torch.eye(*self.program.output.shape * 2, dtype=self.program.dtype, device=self.program.device)
        pending = {next(iter(terms.values())).output: unit}
        for node in self._back:
            received = pending.pop(node)
            shapes = [i.shape for i in node.inputs]
            if isinstance(node.op, LinearOp):
                parts: Sequence[Tensor] = (node.op.adjoint(received, shapes[0]),)
            elif isinstance(node.op, Join):
                parts = node.op.adjoints(received, shapes)
            for i, part in zip(node.inputs, parts, strict=True):
                pending[i] = pending[i] + part if i in pending else channels_last(part)
        return {origin: gradients.distances(flat(pending[origin.node])) for origin in terms}

    @cached_property
    def _back(self) -> list[Node]:
        """The nodes of the maps to the logits, users before inputs."""
        terms = self.composed.maps[self.program.output].values()
        passed = {n for t in terms for n in t.nodes}
        return [n for n in reversed(topological(next(iter(terms)).output)) if n in passed]


def _directs(program: Program, composed: Composed, block: Block) -> list[Direct]:
    """The terms of a block that are composed maps but for a factor: those of an origin that enters at the source of the
    term and reaches the block by no other way.

    There are none where the slopes behind the rows differ: the norm with these has other singular vectors.
    """
    slopes = global_slopes(block).flatten()
    if bool((slopes != slopes[:1]).any()):
        return []
    found: list[Direct] = []
    for term in block.terms:
        entering = _entering(program, composed, term.source)
        if entering is None or term.is_scaled_permutation:
            continue
        origin, factor = entering
        elsewhere = any(origin in _behind(program, composed, t.source) for t in block.terms if t is not term)
        if factor > 0 and not elsewhere:
            found.append(Direct(term, composed.maps[block.node][origin], factor))
    return found


def _entering(program: Program, composed: Composed, source: Node) -> tuple[Origin, float] | None:
    """The origin that enters a value last, and the factor that all of its entries enter with; None where there is none,
    or entries have different factors."""
    if source is program.input:
        return Origin(source), 1.0
    if not composed.added[source]:
        return None
    transform, origin = composed.added[source][-1]
    if transform is None:
        return origin, 1.0
    return (origin, float(transform.remainder.tensors()["scale"].flatten()[0])) if origin.even else None


def _behind(program: Program, composed: Composed, source: Node) -> set[Origin]:
    """The origins that a value depends on."""
    if source is program.input:
        return {Origin(source)}
    added = composed.added[source]
    if any(transform is None for transform, _ in added):
        return {added[-1][1]}
    return {*composed.maps[source], *(origin for _, origin in added)}


def _value(node: Node, values: Mapping[Node, Tensor], rows: Mapping[Node, Sequence[int]]) -> Tensor:
    """A node's value for its rows, without offsets; a row that an input lacks is zero there."""
    wanted = rows[node]
    parts = [(values[i], rows[i]) for i in node.inputs if i in values]
    once = sum(row in own for _, own in parts for row in wanted) == len(wanted)
    if isinstance(node.op, LinearOp) or (isinstance(node.op, Add) and once):
        value = _gathered(parts, wanted)
        return node.op.linear(value) if isinstance(node.op, LinearOp) else value
    inputs = []
    for i in node.inputs:
        nothing = (parts[0][0].new_zeros(len(wanted), *i.shape), wanted)
        inputs.append(_gathered([(values[i], rows[i]), nothing] if i in values else [nothing], wanted))
    return node.op(*inputs)


def _gathered(parts: Sequence[tuple[Tensor, Sequence[int]]], wanted: Sequence[int]) -> Tensor:
    """Rows in the order wanted, each from the first batch that has it. parts: batches, and the numbers of their rows.

    All numbers ascend. Batches are split once and joined again, which has a cheap derivative.
    """
    first = {row: (n, at) for n, (_, own) in reversed([*enumerate(parts)]) for at, row in enumerate(own)}
    runs: list[tuple[int, int, int]] = []  # batch, begin, end
    for batch, at in (first[row] for row in wanted):
        if runs and runs[-1][0] == batch and runs[-1][2] == at:
            runs[-1] = (batch, runs[-1][1], at + 1)
        else:
            runs.append((batch, at, at + 1))
    if len(runs) == 1:
        ((batch, begin, end),) = runs
        value = parts[batch][0]
        return value if end - begin == len(value) else value[begin:end]
    pieces: dict[tuple[int, int], Tensor] = {}
    for n, (value, own) in enumerate(parts):
        borders = sorted({0, len(own), *(b for batch, *ends in runs if batch == n for b in ends)})
        split = value.split([end - begin for begin, end in itertools.pairwise(borders)])
        pieces |= {(n, begin): piece for begin, piece in zip(borders, split, strict=False)}
    return torch.cat([pieces[batch, begin] for batch, begin, _ in runs])
