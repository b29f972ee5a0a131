"""Counts of the paths through a graph, exact in float64: what they say of where an output comes from."""

from __future__ import annotations

from torch import Tensor


def sole_owner(paths: Tensor, first: Tensor, second: Tensor) -> Tensor | None:
    """The one number i that all paths to each output carry, arbitrary where there are none; None where an output has
    two, or where counts are too large to be exact.

    paths: the number n of paths to each output, in float64. first, second: the sums of i and of i^2 over them. All i
    are equal only where `n sum i^2 = (sum i)^2`, the case of equality of the Cauchy-Schwarz inequality.
    """
    products, squares = paths * second, first.square()
    if not (float(products.max()) < 2**53 and float(squares.max()) < 2**53) or bool((products != squares).any()):
        return None
    return (first / paths.clamp(min=1)).round().long()
