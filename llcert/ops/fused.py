"""Zeros around a value in front of a pool: onnxruntime's optimiser drops them in favour of the pool's own padding.

That is another function where a window's largest value is below zero, where a window sees zeros alone, and where
`ceil_mode` leaves out windows that start in the padding. It removes operators that do nothing before it looks, and
moves transpositions, so whatever may be removed or moved does not count as being in between.
"""

from __future__ import annotations

from llcert.ir import Node
from llcert.ops.affine import Affine
from llcert.ops.clamp import Clamp
from llcert.ops.divide import Divide
from llcert.ops.movement import Movement
from llcert.ops.pad import Pad
from llcert.ops.registry import Call
from llcert.ops.smooth import Sigmoid
from llcert.ops.windows import Windows

_ADVICE = "give the pads to the pool itself"


def check_zeros(call: Call, node: Node, windows: Windows, *, largest: bool) -> None:
    """Refuses a pool of a value, of its largest entries or else of means, where the optimiser may change it."""
    pads = _zeros(node)
    if not pads:
        return
    if call.attributes.get("ceil_mode", 0):
        call.refuse(
            "has ceil_mode behind a Pad with zeros, which onnxruntime merges into the pool, whose windows then are "
            f"others; {_ADVICE}"
        )
    if largest and not _nonnegative(pads[-1].inputs[0]):
        call.refuse(
            "stands behind a Pad with zeros, which onnxruntime drops in favour of the pool's own padding, so that a "
            f"window of negative values has another maximum; {_ADVICE}, or put a Relu in front"
        )
    widest = sum(max(width for pair in pad.op.widths for width in pair) for pad in pads if isinstance(pad.op, Pad))
    widest += max(width for pair in windows.padding for width in pair)
    if largest and (widest >= min(windows.kernel) or any(d > 1 for d in windows.dilation)):
        call.refuse(
            "stands behind a Pad with zeros, and windows may see nothing else, of which onnxruntime makes -inf where "
            f"it merges the two; {_ADVICE}"
        )


def _zeros(node: Node) -> list[Node]:
    """The Pads with zeros that a value passes, the nearest first, up to the first operator that computes something."""
    found = []
    while isinstance(node.op, Movement | Affine | Divide | Pad):
        if isinstance(node.op, Pad) and node.op.value == 0:
            found.append(node)
        node = node.inputs[0]
    return found


def _nonnegative(node: Node) -> bool:
    """Whether a value is known to be nowhere negative."""
    while isinstance(node.op, Movement) or (isinstance(node.op, Pad) and node.op.value >= 0):
        node = node.inputs[0]
    op = node.op
    if isinstance(op, Clamp):
        return op.low is not None and bool((op.low >= 0).all()) and op.high is None
    return isinstance(op, Sigmoid)
