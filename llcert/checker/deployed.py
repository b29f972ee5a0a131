"""Rule 10: bounds on the rounding errors of a deployed evaluation of a block.

Deployed means: every value in its number format, sums in any order, with or without fused multiply-adds, subnormals
kept or flushed to zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from llcert.checker.activations import Clamp, Leaky, MaxMin
from llcert.checker.blocks import Block
from llcert.checker.files import require
from llcert.checker.known import Cut
from llcert.checker.nodes import LEAST, Concat, Linear, Node, Take
from llcert.checker.numbers import FORMATS, Format, Vector, above, gamma, length, up

FLUSHED = 2.0**-126
"""The smallest normal number of float32: flushing a subnormal to zero changes a value by less, in either format."""


@dataclass(frozen=True)
class Value:
    """Bounds on the value y of a node.

    size: an upper bound of `|y|`, of the exact and of the deployed value; 0 only where both are 0, else at least LEAST.
    error: an upper bound of the distance between the two. form: the format y is computed in.
    """

    size: Vector
    error: Vector
    form: Format


def rounded(size: Vector, form: Format) -> Vector:
    """Upper bounds of the change when numbers of at most this size are rounded to a format, or flushed to 0."""
    return np.asarray(above(form.unit * size + FLUSHED, 2))


def errors(block: Block, sizes: Mapping[int, Vector], largest: Vector) -> Vector:
    """Upper bounds of the entrywise distance between the deployed and the exact value before the activation, for equal
    values of the sources; the deployed value is that which the activation reads, subnormals flushed.

    sizes: upper bounds of `|h|` of the sources. largest: an upper bound of the absolute exact value. Raises Rejected
    where a format may overflow.
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


def length_around_centre(
    block: Block, sources: Mapping[int, Cut], centre: tuple[Vector, Vector], weights: Vector
) -> float:
    """An upper bound of `||weights (e + delta)||` with delta at any values of the sources in their balls: with that at
    their centres, and how much longer it is elsewhere at most times the largest weight.

    centre: that of the block's value, and e.
    """
    value, error = centre
    sizes = {s: np.where(c.size > 0, np.abs(c.centre) + LEAST, 0.0) for s, c in sources.items()}
    lost = errors(block, sizes, up(np.abs(value) + error))
    further = further_error(block, {s: c.after for s, c in sources.items()})
    return float(up(weighted(weights, error, lost) + above(float(weights.max()) * further, 1)))


def weighted(weights: Vector, error: Vector, lost: Vector) -> float:
    """An upper bound of `||weights (error + lost)||`."""
    error = np.where(lost > 0, up(error + lost), error)
    return length(np.where((weights > 0) & (error > 0), above(weights * error, 2), 0.0))


def further_error(block: Block, radii: Mapping[int, float]) -> float:
    """An upper bound of the length of the vector by which `errors` at any values of the sources exceed those at their
    centres.

    radii: of the balls around these. With every node goes how much longer its sizes and its errors may be.
    """
    known = {s: (radius, 0.0) for s, radius in radii.items()}
    for number, node in block.nodes.items():
        size, error = (_sum(known[i][part] for i in node.inputs) for part in (0, 1))
        what, unit = node.what, node.form.unit
        if isinstance(what, Concat):
            factor, own = 1.0, 0.0
        elif isinstance(what, Take):
            forms = [block.nodes[i].form if i in block.nodes else block.forms[i] for i in node.inputs]
            factor, own = math.sqrt(what.most), max(unit - forms[0].unit, 0.0)
        elif isinstance(what, Linear):
            sums = what.terms - 1 if what.exact else what.terms
            factor, own = what.norm, _roundings(0 if what.exact else 6, max(sums, 0), unit)
        else:
            factor, own = 1.0, _roundings(0, len(node.inputs) - 1, unit)
        size, error = float(above(factor * size, 2)), float(above(factor * error, 2))
        added = float(above(own * size, 2))
        known[number] = float(above(size + added, 1)), float(above(error + added, 1))
    return known[block.pre][1]


def _sum(values: Iterable[float]) -> float:
    return float(above(math.fsum(values), 1))


def _roundings(once: int, sums: int, unit: float) -> float:
    """What a node errs for every unit of its size, at most."""
    return float(above(unit * (once + sums) * (1 + 4 * gamma(sums + 8, unit)), 8))


def _value(node: Node, inputs: list[Value], largest: Vector | None) -> Value:
    """The bounds on a node's value from those on its inputs. largest: of its absolute exact value, where known."""
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
    """The value converted to another format: one rounding if that is narrower, and a flush to zero either way."""
    if value.form is form:
        return value
    own = np.where(value.size > 0, above(max(form.unit - value.form.unit, 0.0) * value.size + FLUSHED, 4), 0.0)
    return Value(above(value.size, 1) + own, value.error + own, form)


def _summed(size: Vector, carried: Vector, terms: Vector, depth: int, largest: Vector | None, form: Format) -> Value:
    """A sum without products, whose terms are values of the inputs. terms: how many of them may differ from 0,
    entrywise.

    A single term is not rounded, but it may be flushed.
    """
    carried, sums = np.where(terms > 0, carried + FLUSHED, 0.0), np.maximum(terms - 1, 0.0)
    return _added(size, carried, sums, 0.0, depth, largest, form)


def _added(
    size: Vector, carried: Vector, sums: Vector, once: float, depth: int, largest: Vector | None, form: Format
) -> Value:
    """A sum whose terms have absolute values that add up to `size`, with `once` roundings of every term and `sums`
    roundings of partial sums.

    A partial sum is at most the sum of the positive terms or that of the negative ones, hence at most half of `size`
    and of the absolute value of the sum together. carried: the errors of the terms. depth: the largest number of terms.
    """
    size, carried = above(size, depth + 4), np.where(carried > 0, above(carried, depth + 4), 0.0)
    partial = size if largest is None else np.minimum(size, above((size + largest + carried) / 2, 4))
    more = 1 + 4 * gamma(int(sums.max(initial=0.0)) + 8, form.unit)
    nothing = size < LEAST  # it was 0 before TINY was added
    own = above(form.unit * (once * size + sums * partial) * more, 8)
    error = np.where(nothing, 0.0, above(own + carried, 1))
    return Value(np.where(nothing, 0.0, above(size + own, 1)), error, form)


def check_thresholds(block: Block) -> None:
    """Raises Rejected unless thresholds and slopes of the activation, and the offsets of exact nodes, are numbers of
    the format they are used in, none of them subnormal."""
    phi, here = block.activation, f"rule 10 (float32), block {block.cut}"
    held = [phi.below] if isinstance(phi, Leaky) else [phi.low, phi.high] if isinstance(phi, Clamp | MaxMin) else []
    right = all(_is_normal(v, block.form) for v in held)
    require(right, f"{here}: a threshold or slope is no normal number of its type")
    added = [(n.what.offset, n.form) for n in block.nodes.values() if isinstance(n.what, Linear) and n.what.exact]
    right = all(_is_normal(v, form) for v, form in added)
    require(right, f"{here}: an offset is no normal number of its type")


def _is_normal(values: Vector, form: Format) -> bool:
    """Whether all values are 0 or normal numbers of a format."""
    held = form is not FORMATS["float32"] or np.array_equal(values, values.astype(np.float32).astype(float))
    return bool(held and not np.any((values != 0) & (np.abs(values) < FLUSHED)))


def activation_errors(block: Block, lower: Vector, upper: Vector) -> Vector:
    """Upper bounds of the error of a deployed evaluation of the activation itself over a box: that of a leaky's
    product, 0 for clamps and maxmin, which select."""
    phi = block.activation
    if phi is None or isinstance(phi, Clamp | MaxMin):
        return np.zeros_like(lower)
    exact = (lower >= 0) | (phi.below == 0) | (phi.below == 1) | (phi.below == -1)
    value = np.abs(phi.below) * np.maximum(-lower, 0.0)
    error = np.where(exact, 0.0, above(2 * block.form.unit * value + 4 * FLUSHED, 4))
    return np.where(value < block.form.limit, error, np.inf)
