"""Networks as immutable graphs of nodes, and the interface of operators: values, bounds, rounding."""

from llcert.ir.activation import (
    Activation,
)
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
    stated,
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
    "stated",
    "topological",
]
