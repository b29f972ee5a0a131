"""All rewrites together, run until none applies."""

from __future__ import annotations

from collections.abc import Sequence

from llcert.ir import Node, Rule, rewrite
from llcert.passes import affine, cast, clamp, maxmin, movement, sink
from llcert.passes.share import sharing

MEANING: tuple[Rule, ...] = (
    affine.drop_identity,
    cast.widened_and_back,
    clamp.drop_infinite_bounds,
    clamp.merge,
    clamp.unreflect,
    clamp.excess_removed,
    movement.shortest,
    maxmin.pair_of_extremes,
    maxmin.neighbours,
    maxmin.grouped,
)
"""Rewrites that find one operator where a file spells several. Each takes operators away, so they come to an end."""

LAYOUT: tuple[Rule, ...] = (*MEANING, sink.below_transposition, sink.below_reshape)
"""The same, and transpositions pushed towards the output, where they meet their inverse."""

LEGAL: tuple[Rule, ...] = (*LAYOUT, maxmin.lone_extreme)
"""The same, and a sound operator for whatever maximum or minimum of two values nothing above recognised."""


def canonicalise(output: Node) -> Node:
    """The same function, exactly in real arithmetic, in as few and as telling operators as the rewrites find."""
    for rules in (MEANING, LAYOUT, LEGAL):
        output = _settled(output, rules)
    return output


def _settled(output: Node, rules: Sequence[Rule]) -> Node:
    while (better := rewrite(output, (sharing(), *rules))) is not output:
        output = better
    return output
