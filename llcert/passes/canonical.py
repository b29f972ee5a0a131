"""All rewrites together, run until none applies."""

from __future__ import annotations

from collections.abc import Sequence

from llcert import ops
from llcert.errors import UnsupportedModel
from llcert.ir import Node, Op, Rule, rewrite, topological
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


_NAMED = tuple(kind for kind in vars(ops).values() if isinstance(kind, type) and issubclass(kind, Op))
"""The operators that rewrites look for by their class."""


def canonicalise(output: Node) -> Node:
    """The same function, exactly in real arithmetic, in as few and as telling operators as the rewrites find.

    Raises UnsupportedModel for an operator of a user that is derived from one of llcert's own: rewrites would take it
    for that one.
    """
    for node in topological(output):
        kind, own = type(node.op), next((k for k in _NAMED if isinstance(node.op, k)), None)
        if own is not None and not kind.__module__.startswith("llcert."):
            raise UnsupportedModel(
                f"{kind.__name__} {node.name or 'without a name'}: is derived from {own.__name__}, for which rewrites "
                "would take it; derive it from LinearOp, Join or Activation"
            )
    for rules in (MEANING, LAYOUT, LEGAL):
        output = _settled(output, rules)
    return output


def _settled(output: Node, rules: Sequence[Rule]) -> Node:
    while (better := rewrite(output, (sharing(), *rules))) is not output:
        output = better
    return output
