"""Refuses, by name, every operator and parameter that llcert cannot bound."""

from __future__ import annotations

from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Input, Join, LinearOp, Node, Op, topological
from llcert.ops import Clamp, Extreme, Head, MaxMin


def check_legal(output: Node, source: str) -> None:
    """Checks that every node of a network is an operator that llcert can bound. source: the file, for messages.

    Raises UnsupportedModel naming the first node that is not, and what would help.
    """
    nodes = topological(output)
    inputs = [n for n in nodes if isinstance(n.op, Input)]
    if not inputs:
        raise UnsupportedModel(f"{source}: the output does not depend on the input")
    if len(inputs) > 1:
        names = ", ".join(n.name or "unnamed" for n in inputs)
        raise UnsupportedModel(f"{source}: {len(inputs)} image inputs ({names}); llcert certifies networks of one")
    for node in nodes:
        _check(node, source)
    if output.shape == (1,):
        raise UnsupportedModel(f"{source}: one output alone; llcert certifies classifiers with two logits or more")


def _check(node: Node, source: str) -> None:
    where = f"{source}: {type(node.op).__name__} {node.name or 'without a name'}"
    if any(size < 1 for size in node.shape):
        raise UnsupportedModel(f"{where}: its shape {node.shape} holds no values")
    match node.op:
        case Head(kind=kind):
            raise UnsupportedModel(f"{where}: {kind} inside the network; llcert supports it as the last operator only")
        case Extreme():
            raise UnsupportedModel(f"{where}: maximum or minimum of values of different shapes; expand them first")
        case LinearOp() | Join() | Activation() | Input():
            pass
        case _:
            raise UnsupportedModel(
                f"{where}: not an operator llcert can bound; derive it from LinearOp, Join or Activation"
            )
    for name, tensor in node.op.tensors().items():
        if not bool(_usable(node.op, name, tensor).all()):
            raise UnsupportedModel(f"{where}: its {name} holds NaN or infinite values; repair or retrain the model")


def _usable(op: Op, name: str, tensor: Tensor) -> Tensor:
    """Whether each entry of a parameter may stand in a network.

    Finite numbers; a clipping threshold of a Clamp or MaxMin may be infinite on the side where it clips nothing. An
    operator that is derived from these may not: what it makes of infinity is not known.
    """
    usable = tensor.isfinite()
    if type(op) in (Clamp, MaxMin) and name in ("low", "high"):
        usable = usable | (tensor == (float("-inf") if name == "low" else float("inf")))
    return usable
