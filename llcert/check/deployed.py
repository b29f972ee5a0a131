"""Rule 10: what one float32 evaluation of a block errs, sums in any order, subnormals flushed or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llcert.check.activations import Activation, Clamp, Leaky, MaxMin
from llcert.check.files import require
from llcert.check.graph import LEAST, Block, Concat, Linear, Node, Take
from llcert.check.numbers import U32, Vector, above, gamma

FLUSHED = 2.0**-126
"""What an activation that reads a subnormal as zero may change in its input; no threshold is smaller."""
LARGEST = 2.0**127


@dataclass(frozen=True)
class Value:
    """Of a node of a block: at least `|y|` of the exact and of the deployed value y, and their distance, entrywise.

    size is 0 only where both are 0, and at least LEAST elsewhere.
    """

    size: Vector
    error: Vector


def rounded(size: Vector) -> Vector:
    """Upper bounds of how far float32 moves a number of at most this size: to the nearest, or to 0 if subnormal."""
    return np.asarray(above(U32 * size + FLUSHED, 2))


def errors(block: Block, sizes: Mapping[int, Vector], largest: Vector) -> Vector:
    """Upper bounds of the distance between the deployed and the exact value before the activation, for equal sources.

    sizes: at least `|h|` of the sources. largest: of the exact value's absolute value, over what is known of the
    sources. Raises Rejected where float32 may overflow. The value as the activation reads it, subnormals flushed.
    """
    values = {s: Value(np.where(size > 0, size + LEAST, 0.0), np.zeros_like(size)) for s, size in sizes.items()}
    for number, node in block.nodes.items():
        inputs = [values[i] for i in node.inputs]
        values[number] = _value(node, inputs, largest if number == block.pre else None)
    most = max(float(v.size.max()) for v in values.values())
    require(most < LARGEST, f"rule 10 (float32), block {block.cut}: a value may reach 2^127")
    last = values[block.pre]
    return np.where(last.size > 0, above(last.error + FLUSHED, 1), 0.0) if block.activation else last.error


def _value(node: Node, inputs: list[Value], largest: Vector | None) -> Value:
    what = node.what
    if isinstance(what, Concat):
        size, error = np.empty(node.size), np.empty(node.size)
        for places, part in zip(what.places, inputs, strict=True):
            size[places], error[places] = part.size, part.error
        return Value(size, error)
    if isinstance(what, Take):
        return Value(what(inputs[0].size), what(inputs[0].error))
    if isinstance(what, Linear):
        (part,) = inputs
        terms = what.pattern @ (part.size > 0).astype(float)
        size = np.where((terms > 0) | (what.magnitude > 0), what.floored @ part.size + what.magnitude + LEAST, 0.0)
        return _added(size, what.absolute @ part.error, terms, 6.0, what.rows, largest)
    # the sum of one value and zeros is exact, but it may flush
    terms = sum(((part.size > 0).astype(float) for part in inputs), np.zeros(node.size))
    size = sum((part.size for part in inputs), np.zeros(node.size))
    carried = sum((part.error for part in inputs), np.zeros(node.size))
    found = _added(size, carried, np.maximum(terms - 1, 0.0), 1.0, len(inputs), largest)
    alone = np.where(terms > 0, above(carried + FLUSHED, 2), 0.0)
    return Value(found.size, np.where(terms > 1, found.error, alone))


def _added(size: Vector, carried: Vector, terms: Vector, once: float, depth: int, largest: Vector | None) -> Value:
    """A sum whose terms have the size M together: `once` roundings of every term, `terms` of partial sums.

    A partial sum is at most the larger of the positive and of the negative terms together: half of M and of |sum|.
    """
    size, carried = above(size, depth + 4), np.where(carried > 0, above(carried, depth + 4), 0.0)
    partial = size if largest is None else np.minimum(size, above((size + largest + carried) / 2, 4))
    more = 1 + 4 * gamma(int(terms.max(initial=0.0)) + 8, U32)
    nothing = size < LEAST  # TINY alone: it was 0
    own = above(U32 * (once * size + terms * partial) * more, 8)
    error = np.where(nothing, 0.0, above(own + carried, 1))
    return Value(np.where(nothing, 0.0, above(size + own, 1)), error)


def check_single(block: Block) -> None:
    """The thresholds and slopes of an activation are float32 numbers, none of them subnormal."""
    phi = block.activation
    held = [phi.below] if isinstance(phi, Leaky) else [phi.low, phi.high] if isinstance(phi, Clamp | MaxMin) else []
    right = all(
        np.array_equal(v, v.astype(np.float32).astype(float)) and not np.any((v != 0) & (np.abs(v) < FLUSHED))
        for v in held
    )
    require(right, f"rule 10 (float32), block {block.cut}: a threshold or slope is no normal float32 number")


def activation_errors(phi: Activation | None, lower: Vector, upper: Vector) -> Vector:
    """Upper bounds of what a float32 evaluation of the activation itself errs over a box: the product of a leaky."""
    if not isinstance(phi, Leaky):
        return np.zeros_like(lower)
    exact = (lower >= 0) | (phi.below == 0) | (phi.below == 1) | (phi.below == -1)
    value = np.abs(phi.below) * np.maximum(-lower, 0.0)
    error = np.where(exact, 0.0, above(2 * U32 * value + 4 * FLUSHED, 4))
    return np.where(value < LARGEST, error, np.inf)
