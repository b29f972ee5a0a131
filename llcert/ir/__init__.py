"""Networks as immutable graphs of nodes, and the interface of operators: values, bounds, rounding.

What both doors of `llcert.frontend` make and `llcert.passes` rewrite, until `llcert.program` cuts it into blocks.
"""

from llcert.ir.activation import Activation, LoopTransform
from llcert.ir.graph import (
    LARGEST,
    LARGEST_TOGETHER,
    LARGEST_VALUE,
    LONGEST_AXIS,
    Node,
    Rule,
    apply,
    copied,
    last_reads,
    place,
    rewrite,
    topological,
)
from llcert.ir.network import (
    Network,
    Original,
    evaluate,
    evaluate_as_run,
)
from llcert.ir.operator import (
    Input,
    Join,
    LinearOp,
    Op,
    Shape,
    format_name,
    nonzero,
    number,
    permuted,
    stated_roundings,
)

__all__ = [
    "LARGEST",
    "LARGEST_TOGETHER",
    "LARGEST_VALUE",
    "LONGEST_AXIS",
    "Activation",
    "Input",
    "Join",
    "LinearOp",
    "LoopTransform",
    "Network",
    "Node",
    "Op",
    "Original",
    "Rule",
    "Shape",
    "apply",
    "copied",
    "evaluate",
    "evaluate_as_run",
    "format_name",
    "last_reads",
    "nonzero",
    "number",
    "permuted",
    "place",
    "rewrite",
    "stated_roundings",
    "topological",
]
