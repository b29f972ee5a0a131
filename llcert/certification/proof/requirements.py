"""What a network must be like so that a proof can speak of it as it is run."""

from __future__ import annotations

from llcert.certification.heads import rounding
from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Network, format_name, topological
from llcert.program import Program


def check_deployable(network: Network, program: Program) -> None:
    """Nothing, where what an evaluation in the formats of the values computes is known. Raises UnsupportedModel.

    program: of the network, in float64.
    """
    _check_parameters(program)
    _check_heads(network)


def _check_parameters(program: Program) -> None:
    """Nothing, where formats hold what is computed in them: bends exactly, coefficients up to their rounding.

    Raises UnsupportedModel naming the operator.
    """
    for node in topological(program.output):
        for name, tensor in node.op.tensors().items():
            held = tensor.to(node.dtype).to(tensor.dtype)
            lost = (held != tensor) & ~tensor.isnan()
            if bool((lost if isinstance(node.op, Activation) else lost & held.isinf()).any()):
                form, where = format_name(node.dtype), node.name or "without a name"
                raise UnsupportedModel(
                    f"{node.op.label} {where}: its {name} is no {form} number, though its value is computed in {form}; "
                    "--semantics real speaks of real numbers alone"
                )


def _check_heads(network: Network) -> None:
    """Nothing, where it is known what rounds behind the logits. Raises UnsupportedModel."""
    try:
        for head in network.heads:
            rounding(head)
    except UnsupportedModel as unknown:
        raise UnsupportedModel(f"{network.source}: {unknown}") from None
