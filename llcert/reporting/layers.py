"""The rows of a report's layer table: every term of a program, with its name, operators and global norm."""

from __future__ import annotations

from llcert.bounds import GlobalBound
from llcert.ir import LinearOp
from llcert.program import Block, Program, Term
from llcert.reporting.subject import Layer


def layers(program: Program, global_bound: GlobalBound) -> tuple[Layer, ...]:
    """One layer for each term of each block, in the order of `BatchResult.layers`."""
    return tuple(
        Layer(_name(number, block, term), _operator(block, term), float(global_bound.norms[term]))
        for number, block in enumerate(program.blocks)
        for term in block.terms
    )


def block_name(number: int, block: Block) -> str:
    """The block's name in the model's file, or its number."""
    return block.node.name or f"block {number + 1}"


def _name(number: int, block: Block, term: Term) -> str:
    name = block_name(number, block)
    return name if len(block.terms) == 1 else f"{name} from {term.source.name or 'image'}"


def _operator(block: Block, term: Term) -> str:
    """The operators of the term, as in `Conv + BatchNorm + ReLU`."""
    linear = [n.op.label for n in term.nodes if not (isinstance(n.op, LinearOp) and n.op.is_scaled_permutation)]
    activation = [block.activation.label] if block.activation else []
    return " + ".join([*linear, *activation]) or "identity"
