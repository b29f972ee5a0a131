"""graph.json and model.npz: the network as nodes with arrays (docs/certificate.md, section 1.2).

Linear operators of every kind become sparse matrices, activations one of the three kinds that the checker knows. What
has no such form is refused with the name of the node, so that no certificate claims more than a checker can check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llcert.certificate_writer.matrices import Matrix, matrix_of, placed, summed
from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Join, LinearOp, Node, Op, format_name, stated_roundings, topological
from llcert.program import Block, Program

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CertificateGraph:
    """A program as the nodes of a certificate.

    numbers: the number of every node, in order of execution, the input first. matrices: of the linear nodes, in
    float64. fields: the entry of every node in graph.json. arrays: the content of model.npz.
    """

    program: Program
    numbers: Mapping[Node, int]
    matrices: Mapping[Node, Matrix]
    fields: tuple[dict[str, Any], ...]
    arrays: Arrays

    @staticmethod
    def of(program: Program, *, deployed: bool = True) -> CertificateGraph:
        """The nodes of a program. Raises UnsupportedModel, naming the node, for an operator that no kind of node stands
        for.

        deployed: whether the certificate is also about floating-point evaluations of the network (rule 10). Operators
        that round more than rule 10 pays for are refused then.
        """
        order = topological(program.output)
        numbers = {node: k for k, node in enumerate(order)}
        matrices, fields, arrays = dict[Node, Matrix](), list[dict[str, Any]](), Arrays()
        for node in order:
            if isinstance(node.op, LinearOp):
                matrices[node] = matrix_of(node, program.device)
            said, own = _described(node, matrices, deployed) if node.inputs else ({"kind": "input"}, Arrays())
            inputs = [numbers[i] for i in node.inputs]
            named = {"inputs": inputs} if isinstance(node.op, Join) else {"input": inputs[0]} if inputs else {}
            fields.append(said | named | {"size": math.prod(node.shape), "type": format_name(node.dtype)})
            arrays |= {f"{numbers[node]}.{name}": values for name, values in own.items()}
        return CertificateGraph(program, numbers, matrices, tuple(fields), arrays)

    def graph_json(self) -> dict[str, Any]:
        """The content of graph.json."""
        cuts = sorted(self.numbers[n] for n in (self.program.input, *(b.node for b in self.program.blocks)))
        return {"format": 2, "nodes": list(self.fields), "cuts": cuts, "classes": self.program.classes}

    @cached_property
    def maps(self) -> Mapping[Node, Mapping[Node, Matrix]]:
        """The matrix `A_s` of every block from each of its sources s, in float64."""
        return {b.node: {t.source: self._map(b, t.source) for t in b.terms} for b in self.program.blocks}

    def _map(self, block: Block, source: Node) -> Matrix:
        """The sum, over all paths from a source to the value of a block, of the product of the matrices on the path."""
        size = math.prod(source.shape)
        found = {source: placed(np.arange(size), size, size)}
        for node in block.body:
            parts = [(i, n) for i, n in enumerate(node.inputs) if n in found]
            if not parts:
                continue
            if isinstance(node.op, Join):
                places, size = _places(node, node.op), math.prod(node.shape)
                found[node] = summed([placed(places[i], size, len(places[i])) @ found[n] for i, n in parts])
            else:
                found[node] = self.matrices[node] @ found[parts[0][1]]
        return found[block.pre]


_NO_RULE = (
    "a certificate has no rule for this operator; its activations are clamps (ReLU, ReLU-theta), leaky ReLU, absolute "
    "values and MaxMin (docs/certificate.md, section 1.5); without --proof llcert certifies others, too"
)


def _described(node: Node, matrices: Mapping[Node, Matrix], deployed: bool) -> tuple[dict[str, Any], Arrays]:
    """The entry of a node in graph.json without inputs, size and type, and the arrays of the node."""
    op = node.op
    if isinstance(op, LinearOp):
        return _linear(node, op, matrices[node])
    if isinstance(op, Join):
        return _join(node, _places(node, op))
    found = op.described(node.inputs[0].shape) if isinstance(op, Activation) else None
    if found is None:
        raise _unknown(node, _NO_RULE)
    kind, arrays = found
    if deployed:
        _require_paid(node, kind)
    return {"kind": kind}, {name: _array(values) for name, values in arrays.items()}


def _require_paid(node: Node, kind: str) -> None:
    """Raises UnsupportedModel for an activation that rounds more than rule 10 pays for a node of its kind."""
    op = node.op
    assert isinstance(op, Activation)
    zero = torch.zeros(1, *node.inputs[0].shape, dtype=torch.float64, device=_device(op))
    sizes = op.summed(Region(zero, zero - torch.inf, zero + torch.inf, zero.new_full((1,), torch.inf)))
    if sizes is not None and bool((sizes != 0).any()):
        raise _unknown(
            node,
            "it is computed by sums, which round, and a certificate knows it without; write it as a minimum "
            "(llcert.save does), or ask for --semantics real",
        )
    roundings, paid = stated_roundings(op), int(kind == "leaky")
    if roundings > paid:
        raise _unknown(node, f"it rounds {roundings} times, and a certificate pays for {paid}")


def _unknown(node: Node, why: str) -> UnsupportedModel:
    """The refusal of a node."""
    return UnsupportedModel(f"--proof: {node.op.label} {node.name or 'without a name'}: {why}")


def _linear(node: Node, op: LinearOp, matrix: Matrix) -> tuple[dict[str, Any], Arrays]:
    """A linear node: a `take` where it moves entries and computes nothing, else a `linear`; as of `_described`."""
    roundings = stated_roundings(op)
    zero = torch.zeros(1, *node.inputs[0].shape, dtype=torch.float64, device=_device(op))
    offset = _array(op(zero)[0].expand(node.shape))
    magnitude = np.maximum(_array(op.offset_size(zero)[0].expand(node.shape)), np.abs(offset))
    alone = np.diff(matrix.indptr)
    if op.copies and np.all(alone <= 1) and np.all(matrix.data == 1) and not magnitude.any():
        places = np.full(matrix.shape[0], -1, np.int64)
        places[alone == 1] = matrix.indices
        return {"kind": "take"}, {"places": places}
    if roundings > _ROUNDINGS:
        raise _unknown(node, f"a product rounds {roundings} times, and a certificate pays for {_ROUNDINGS}")
    exact = {"exact": True} if roundings == 0 and np.all(np.abs(matrix.data) == 1) else {}
    csr = {"data": matrix.data, "indices": matrix.indices.astype(np.int64), "indptr": matrix.indptr.astype(np.int64)}
    return {"kind": "linear"} | exact, {**csr, "offset": offset, "magnitude": magnitude}


_ROUNDINGS = 6
"""Roundings of a product, and of an offset, that rule 10 pays for."""


def _join(node: Node, places: list[NDArray[np.int64]]) -> tuple[dict[str, Any], Arrays]:
    """An `add` where every input fills all of the result, a `concat` where each fills a part of its own; as of
    `_described`. places: where the entries of each input go."""
    size = math.prod(node.shape)
    if stated_roundings(node.op) == 0 and all(np.array_equal(p, np.arange(size)) for p in places):
        return {"kind": "add"}, {}
    if stated_roundings(node.op) == 0 and np.array_equal(np.sort(np.concatenate(places)), np.arange(size)):
        return {"kind": "concat"}, {f"places.{i}": p for i, p in enumerate(places)}
    raise _unknown(node, _NO_RULE)


def _places(node: Node, op: Join) -> list[NDArray[np.int64]]:
    """The position in the result of every entry of each input: each enters one output, with coefficient one."""
    outputs = torch.arange(math.prod(node.shape), dtype=torch.float64).reshape(1, *node.shape)
    return [_array(part[0]).astype(np.int64) for part in op.adjoints(outputs, [i.shape for i in node.inputs])]


def _device(op: Op) -> torch.device:
    """Where the parameters of an operator are."""
    return next((t.device for t in op.tensors().values()), torch.device("cpu"))


def _array(values: Tensor) -> NDArray[Any]:
    """The entries of a tensor in row-major order; floating-point numbers in float64."""
    values = values.detach().cpu()
    return np.ascontiguousarray((values.double() if values.is_floating_point() else values).reshape(-1).numpy())
