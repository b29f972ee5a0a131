"""Small graphs, and what a pass must keep: the function, to rounding."""

from __future__ import annotations

import torch

from llcert.ir import Input, Node, Shape, apply, evaluate, topological
from llcert.passes import canonicalise


def image(*shape: int) -> Node:
    return apply(Input(tuple(shape)), name="image")


def labels(output: Node) -> list[str]:
    """The operators of a graph in order, the input left out."""
    return [n.op.label for n in topological(output) if not isinstance(n.op, Input)]


def shape_of_image(output: Node) -> Shape:
    return next(n.shape for n in topological(output) if isinstance(n.op, Input))


def same_function(before: Node, after: Node) -> bool:
    """Whether two graphs agree to 1e-6 on images around zero, small and large."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, *shape_of_image(before), generator=generator, dtype=torch.float64)
    images[4:] *= 10
    with torch.no_grad():
        a, b = evaluate(before, images), evaluate(after, images)
    return a.shape == b.shape and bool(((a - b).abs() <= 1e-6 * (1 + a.abs())).all())


def canonical(output: Node) -> Node:
    """The canonical graph, after the function was found unchanged."""
    found = canonicalise(output)
    assert same_function(output, found)
    assert found.shape == output.shape
    return found
