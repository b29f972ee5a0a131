"""Random small networks whose values have several readers, from one integer seed.

Every step reads values that other steps read as well: two or three activations or pools of one value, a value added to
itself or concatenated with itself, branches that part and meet again, copies, shifts, means over everything (values of
one number an image), and constants of several kinds. `random_graphs` builds chains with an occasional branch; here the
branches are the point.
"""

from __future__ import annotations

from collections.abc import Callable

from random_graphs import Draw, activations, convolution_kernel, entries, pooling, scaled

from llcert.ir import Input, Network, Node, apply
from llcert.ops import (
    Add,
    Affine,
    Concat,
    Conv,
    Expand,
    Linear,
    MaxPool,
    Pad,
    Reduce,
    Reshape,
    SumPool,
    Take,
    Transpose,
)

SHAPES = [(4,), (6,), (3, 4), (1, 4, 4), (2, 3, 3), (4, 2, 2)]

LARGEST = 40
"""Entries of the largest value; larger ones are summed up by a dense map first."""


def shared_network(seed: int, classes: int = 3) -> Network:
    """A network in float64 of 4 to 9 random steps; the same seed gives the same network."""
    draw = Draw(seed)
    values = [apply(Input(draw.choices.choice(SHAPES)))]
    unread: list[Node] = list(values)
    for _ in range(draw.choices.randint(4, 9)):
        made, read = _step(draw, values)
        unread = [n for n in unread if n not in read] + made
        values += made
    return Network(_logits(draw, unread, classes))


def _step(draw: Draw, values: list[Node]) -> tuple[list[Node], list[Node]]:
    """New values, and those they read."""
    one = _chosen(draw, values)
    kind = draw.choices.random()
    if kind < 0.35:
        count = draw.choices.choice([1, 2, 2, 3])
        return [_bounded(draw, _nonlinear(draw, one)) for _ in range(count)], [one]
    if kind < 0.5:
        return [_bounded(draw, _moved(draw, one))], [one]
    if kind < 0.65:
        return [_bounded(draw, _linear(draw, one))], [one]
    other = one if draw.choices.random() < 0.2 else _chosen(draw, values)
    if kind < 0.85:
        return [_sum(draw, one, other)], [one, other]
    return [_bounded(draw, _concatenation(draw, one, other))], [one, other]


def _chosen(draw: Draw, values: list[Node]) -> Node:
    """A late value mostly, any value sometimes."""
    return draw.choices.choice(values[-3:] if draw.choices.random() < 0.6 else values)


def _nonlinear(draw: Draw, node: Node) -> Node:
    pooled = len(node.shape) == 3 and min(node.shape[1:]) > 1
    if pooled and draw.choices.random() < 0.35:
        return _overlapping(draw, node)
    return draw.choices.choice(activations(draw, node, keep_shape=not pooled))(node)


def _overlapping(draw: Draw, node: Node) -> Node:
    """A maximum over windows that share entries."""
    size = min(draw.choices.choice([2, 3]), *node.shape[1:])
    padding = draw.choices.choice([0, size // 2])
    return apply(MaxPool((size, size), (1, 1), ((padding, padding),) * 2, (1, 1)), node)


def _moved(draw: Draw, node: Node) -> Node:
    """Copies, reorders, pads or shifts a value; nothing is added up but a constant."""
    rank = len(node.shape)
    if rank == 0:
        return apply(Expand((3,)), node) if draw.choices.random() < 0.7 else _shifted(draw, node)
    axis = draw.choices.randrange(rank)
    length = node.shape[axis]
    layers: list[Callable[[Node], Node]] = [
        lambda n: apply(Expand((2, *n.shape)), n),
        lambda n: apply(Take(axis, tuple(draw.choices.choices(range(length), k=length + 1))), n),
        lambda n: apply(Take(axis, (*range(1, length), 0)), n),
        lambda n: apply(Take(axis, (length - 1, *range(length), 0)), n),  # circular padding
        lambda n: apply(Pad(((1, 0),) * rank, draw.choices.choice([0.0, 0.5])), n),
        lambda n: apply(Transpose(tuple(draw.choices.sample(range(rank), rank))), n),
        lambda n: _shifted(draw, n),
        lambda n: _shifted(draw, n),
    ]
    return draw.choices.choice(layers)(node)


def _shifted(draw: Draw, node: Node) -> Node:
    """Another constant to every entry, or one to all; sometimes a factor as well."""
    like = node.shape if draw.choices.random() < 0.5 else ()
    scale = None if draw.choices.random() < 0.6 else draw.normal(*like)
    size = draw.choices.choice([0.25, 1.0, 30.0])
    return apply(Affine(scale, draw.normal(*like) * size), node)


def _linear(draw: Draw, node: Node) -> Node:
    shape, rank = node.shape, len(node.shape)
    if rank == 0:
        return apply(Affine(draw.normal(), draw.normal()), node)
    axes = tuple(sorted(draw.choices.sample(range(rank), draw.choices.randint(1, rank))))
    weight = 1.0
    for a in axes:
        weight /= shape[a]
    layers: list[Callable[[Node], Node]] = [
        lambda n: apply(Linear(scaled(draw, draw.choices.randint(2, 5), shape[-1]), draw.normal(1)), n),
        lambda n: apply(Reduce(axes, weight), n),
        _centred,
    ]
    if rank == 3:
        layers.append(
            lambda n: apply(Conv(convolution_kernel(draw, 2, n.shape[0], (3, 3)), draw.normal(2), (1, 1), (1, 1)), n)
        )
    if rank == 3 and min(shape[1:]) > 1:
        layers.append(lambda n: pooling(draw, n))
        layers.append(lambda n: apply(SumPool((2, 2), (1, 1), 0.25), n))
    return draw.choices.choice(layers)(node)


def _convolution(draw: Draw, node: Node) -> Node:
    kernel = convolution_kernel(draw, 2, node.shape[0], (3, 3))
    return apply(Conv(kernel, draw.normal(2), (1, 1), (1, 1)), node)


def _centred(node: Node) -> Node:
    """`z` less its mean over everything: the mean is one number an image."""
    mean = apply(Reduce(tuple(range(len(node.shape))), -1 / max(entries(node), 1)), node)
    spread = apply(Expand(node.shape), apply(Reshape((1,) * len(node.shape)), mean))
    return apply(Add(), node, spread)


def _sum(draw: Draw, one: Node, other: Node) -> Node:
    """One value plus another, which a dense map brings to its size where it has another shape; maybe three times."""
    if one.shape != other.shape:
        other = _reshaped(apply(Linear(scaled(draw, entries(one), entries(other)), None), _flat(other)), one.shape)
    parts = [one, other, *([other] if draw.choices.random() < 0.2 else [])]
    return apply(Add(), *parts)


def _concatenation(draw: Draw, one: Node, other: Node) -> Node:
    if len(one.shape) == len(other.shape) > 0 and one.shape[1:] == other.shape[1:]:
        return apply(Concat(0), one, other)
    parts = [_flat(one), _flat(other)]
    return apply(Concat(0), *(parts if draw.choices.random() < 0.7 else [*parts, parts[0]]))


def _flat(node: Node) -> Node:
    return node if len(node.shape) == 1 else _reshaped(node, (entries(node),))


def _reshaped(node: Node, shape: tuple[int, ...]) -> Node:
    return node if node.shape == shape else apply(Reshape(shape), node)


def _bounded(draw: Draw, node: Node) -> Node:
    """The value itself, or six sums of it where it is too large to go on with."""
    return node if entries(node) <= LARGEST else apply(Linear(scaled(draw, 6, entries(node)), None), _flat(node))


def _logits(draw: Draw, values: list[Node], classes: int) -> Node:
    """A dense map of everything that nobody has read; of one of them twice."""
    flat = [_flat(n) for n in values]
    joined = flat[0] if len(flat) == 1 else apply(Concat(0), *flat)
    logits = apply(Linear(scaled(draw, classes, entries(joined)), draw.normal(classes)), joined)
    if draw.choices.random() < 0.3:
        logits = apply(Add(), logits, apply(Linear(scaled(draw, classes, entries(flat[-1])), None), flat[-1]))
    return logits
