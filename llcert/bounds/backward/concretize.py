"""Where a backward pass ends: the least value of linear bounds over box and ball (docs/method.md, sections 8 and 9.3).

CROWN concretizes at the image alone. Here the coefficients on any value may be: over its region from the forward pass.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from llcert.bounds.backward.linear_bound import LinearBound, LowerSum
from llcert.bounds.forward.box import squares
from llcert.bounds.forward.trace import Trace
from llcert.bounds.margin import largest_increase
from llcert.domain.row_sharing import UNSHARED, RowSharing
from llcert.ir import Node
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import flat, length


def concretized(linear: LinearBound, trace: Trace, image: Node, *, clip: bool) -> LowerSum:
    """Lower bounds of the objectives: every value of the linear bound over its own region.

    image: the input of the network. clip: whether it is bounded over ball and box, else over its ball alone.
    """
    for node in linear.coefficients:
        linear = concretized_at(node, linear, trace, ball_alone=node is image and not clip)
    return linear.constant


def concretized_at(node: Node, linear: LinearBound, trace: Trace, *, ball_alone: bool = False) -> LinearBound:
    """The linear bound without one value: the least that its coefficients on the value can amount to, over the region
    of the value, is added to its constant.

    ball_alone: the least over the ball of the region, which may be less than over ball and box. Rows that are shared
    are always bounded over the ball alone.
    """
    rows, sharing, constant = linear.coefficients[node], linear.sharing_at(node), linear.constant
    known = trace.post_activation[node]
    products = rows * known.region.centre[:, None]
    if ball_alone or sharing is not UNSHARED:
        fall = known.region.radius[:, None] * row_length(rows, sharing)
        fall = fall if trace.roundoff is None else DOUBLE.above(fall, rows[0].numel() + 16)
    else:
        fall = largest_increase(-flat(rows, 2), known, rounding=constant.rounding)
    error = None if trace.roundoff is None else _product_error(products, sharing)
    constant = constant.plus(sharing.sums(products), error).plus(-fall)
    return replace(linear.without(node), constant=constant)


def row_length(rows: Tensor, sharing: RowSharing) -> Tensor:
    """The Euclidean length of the entries of each bound, `[batch, bounds]`; rows: `[batch, rows, *shape]`."""
    return length(rows, 2) if sharing is UNSHARED else sharing.sums(squares(rows)).sqrt()


def _product_error(products: Tensor, sharing: RowSharing) -> Tensor:
    """What the computed sums of products may err, `[batch, bounds]`."""
    count = products[0].numel() + 8
    return DOUBLE.above(DOUBLE.gamma(count) * sharing.sums(products.abs()), count)
