"""Rule 10: what one evaluation of a block errs, each value in its type, sums in any order, maybe flushing to zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llcert.checker.activations import Clamp, Leaky, MaxMin
from llcert.checker.blocks import Block
from llcert.checker.files import require
from llcert.checker.nodes import LEAST, Concat, Linear, Node, Take
from llcert.checker.numbers import FORMATS, Format, Vector, above, gamma

FLUSHED = 2.0**-126
"""What reading a subnormal as zero may change in a value, in any format; no threshold is smaller."""


@dataclass(frozen=True)
class Value:
    """Of a node of a block: at least `|y|` of the exact and of the deployed value y, and their distance, entrywise.

    size is 0 only where both are 0, and at least LEAST elsewhere. form: what y is computed in.
    """

    size: Vector
    error: Vector
    form: Format


def rounded(size: Vector, form: Format) -> Vector:
    """Upper bounds of how far a format moves a number of at most this size: to the nearest, or to 0 if subnormal."""
    return np.asarray(above(form.unit * size + FLUSHED, 2))


def errors(block: Block, sizes: Mapping[int, Vector], largest: Vector) -> Vector:
    """Upper bounds of the distance between the deployed and the exact value before the activation, for equal sources.

    sizes: at least `|h|` of the sources. largest: of the exact value's absolute value, over what is known of the
    sources. Raises Rejected where a format may overflow. The value as the activation reads it, subnormals flushed.
    """
    padded = {s: np.where(size > 0, size + LEAST, 0.0) for s, size in sizes.items()}
    values = {s: Value(size, np.zeros_like(size), block.forms[s]) for s, size in padded.items()}
    for number, node in block.nodes.items():
        inputs = [values[i] for i in node.inputs]
        values[number] = _value(node, inputs, largest if number == block.pre else None)
    fits = all(float(v.size.max()) < v.form.limit for v in values.values())
    require(fits, f"rule 10 (float32), block {block.cut}: a value may overflow its type")
    last = values[block.pre]
    return np.where(last.size > 0, above(last.error + FLUSHED, 1), 0.0) if block.activation else last.error


def _value(node: Node, inputs: list[Value], largest: Vector | None) -> Value:
    what = node.what
    if isinstance(what, Concat):
        size, error = np.empty(node.size), np.empty(node.size)
        for places, part in zip(what.places, inputs, strict=True):
            size[places], error[places] = part.size, part.error
        return Value(size, error, node.form)
    if isinstance(what, Take):
        (part,) = inputs
        return _converted(Value(what(part.size), what(part.error), part.form), node.form)
    if isinstance(what, Linear):
        (part,) = inputs
        terms = what.pattern @ (part.size > 0).astype(float)
        size = np.where((terms > 0) | (what.magnitude > 0), what.floored @ part.size + what.magnitude + LEAST, 0.0)
        carried = what.absolute @ part.error
        if what.exact:
            return _summed(size, carried, terms + (what.magnitude > 0), what.rows, largest, node.form)
        return _added(size, carried, terms, 6.0, what.rows, largest, node.form)
    terms = sum(((part.size > 0).astype(float) for part in inputs), np.zeros(node.size))
    size = sum((part.size for part in inputs), np.zeros(node.size))
    carried = sum((part.error for part in inputs), np.zeros(node.size))
    return _summed(size, carried, terms, len(inputs), largest, node.form)


def _converted(value: Value, form: Format) -> Value:
    """The value in another format: rounded once into a narrower one, and where it is subnormal in the narrower of both
    maybe read or written as zero."""
    if value.form is form:
        return value
    own = np.where(value.size > 0, above(max(form.unit - value.form.unit, 0.0) * value.size + FLUSHED, 4), 0.0)
    return Value(above(value.size, 1) + own, value.error + own, form)


def _summed(size: Vector, carried: Vector, terms: Vector, depth: int, largest: Vector | None, form: Format) -> Value:
    """A sum of exact terms, of which so many may differ from 0: one alone is exact too, but it may flush."""
    carried, sums = np.where(terms > 0, carried + FLUSHED, 0.0), np.maximum(terms - 1, 0.0)
    return _added(size, carried, sums, 0.0, depth, largest, form)


def _added(
    size: Vector, carried: Vector, sums: Vector, once: float, depth: int, largest: Vector | None, form: Format
) -> Value:
    """A sum whose terms have the size M together: `once` roundings of every term, `sums` of partial sums.

    A partial sum is at most the larger of the positive and of the negative terms together: half of M and of |sum|.
    """
    size, carried = above(size, depth + 4), np.where(carried > 0, above(carried, depth + 4), 0.0)
    partial = size if largest is None else np.minimum(size, above((size + largest + carried) / 2, 4))
    more = 1 + 4 * gamma(int(sums.max(initial=0.0)) + 8, form.unit)
    nothing = size < LEAST  # TINY alone: it was 0
    own = above(form.unit * (once * size + sums * partial) * more, 8)
    error = np.where(nothing, 0.0, above(own + carried, 1))
    return Value(np.where(nothing, 0.0, above(size + own, 1)), error, form)


def check_thresholds(block: Block) -> None:
    """Thresholds and slopes of an activation, and offsets that are added as they are, are numbers of the format they
    are used in, none of them subnormal."""
    phi, here = block.activation, f"rule 10 (float32), block {block.cut}"
    held = [phi.below] if isinstance(phi, Leaky) else [phi.low, phi.high] if isinstance(phi, Clamp | MaxMin) else []
    right = all(_is_normal(v, block.form) for v in held)
    require(right, f"{here}: a threshold or slope is no normal number of its type")
    added = [(n.what.offset, n.form) for n in block.nodes.values() if isinstance(n.what, Linear) and n.what.exact]
    right = all(_is_normal(v, form) for v, form in added)
    require(right, f"{here}: an offset is no normal number of its type")


def _is_normal(values: Vector, form: Format) -> bool:
    held = form is not FORMATS["float32"] or np.array_equal(values, values.astype(np.float32).astype(float))
    return bool(held and not np.any((values != 0) & (np.abs(values) < FLUSHED)))


def activation_errors(block: Block, lower: Vector, upper: Vector) -> Vector:
    """Upper bounds of what an evaluation of the activation itself errs over a box: the product of a leaky."""
    phi = block.activation
    if not isinstance(phi, Leaky):
        return np.zeros_like(lower)
    exact = (lower >= 0) | (phi.below == 0) | (phi.below == 1) | (phi.below == -1)
    value = np.abs(phi.below) * np.maximum(-lower, 0.0)
    error = np.where(exact, 0.0, above(2 * block.form.unit * value + 4 * FLUSHED, 4))
    return np.where(value < block.form.limit, error, np.inf)
