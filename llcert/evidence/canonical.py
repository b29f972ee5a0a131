"""The network of a certificate: its nodes with their arrays, as docs/certificate.md has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.evidence.matrices import Matrix, matrix_of, placed, summed
from llcert.ir import LinearOp, Node, format_name, topological
from llcert.ops import Add, Clamp, Concat, Leaky, MaxMin, Pad
from llcert.ops.movement import Movement
from llcert.program import Block, Program

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Canonical:
    """A program in the certificate's terms.

    numbers: of its nodes, the input first. matrices: of the linear nodes, in float64. fields: what graph.json says of
    each node. arrays: what model.npz holds.
    """

    program: Program
    numbers: Mapping[Node, int]
    matrices: Mapping[Node, Matrix]
    fields: tuple[dict[str, Any], ...]
    arrays: Arrays

    @staticmethod
    def of(program: Program) -> Canonical:
        """Raises UnsupportedModel, naming the node, for operators a certificate has no words for."""
        order = topological(program.output)
        numbers = {node: k for k, node in enumerate(order)}
        matrices, fields, arrays = dict[Node, Matrix](), list[dict[str, Any]](), Arrays()
        for node in order:
            if isinstance(node.op, LinearOp):
                matrices[node] = matrix_of(node, program.device)
            kind, own = _described(node, matrices)
            inputs = [numbers[i] for i in node.inputs]
            named = {} if not inputs else {"inputs": inputs} if kind in ("add", "concat") else {"input": inputs[0]}
            fields.append({"kind": kind, **named, "size": math.prod(node.shape), "type": format_name(node.dtype)})
            arrays |= {f"{numbers[node]}.{name}": values for name, values in own.items()}
        return Canonical(program, numbers, matrices, tuple(fields), arrays)

    def graph(self) -> dict[str, Any]:
        """The content of graph.json."""
        cuts = sorted(self.numbers[n] for n in (self.program.input, *(b.node for b in self.program.blocks)))
        return {"format": 2, "nodes": list(self.fields), "cuts": cuts, "classes": self.program.classes}

    @cached_property
    def maps(self) -> Mapping[Node, Mapping[Node, Matrix]]:
        """The matrices of every block, by its sources."""
        return {b.node: {t.source: self._map(b, t.source) for t in b.terms} for b in self.program.blocks}

    def _map(self, block: Block, source: Node) -> Matrix:
        size = math.prod(source.shape)
        found = {source: placed(np.arange(size), size, size)}
        for node in block.body:
            parts = [(i, n) for i, n in enumerate(node.inputs) if n in found]
            if not parts:
                continue
            if node in self.matrices:
                found[node] = self.matrices[node] @ found[parts[0][1]]
            elif isinstance(node.op, Concat):
                places = _places(node)
                found[node] = summed(
                    [placed(places[i], math.prod(node.shape), len(places[i])) @ found[n] for i, n in parts]
                )
            else:
                found[node] = summed([found[n] for _, n in parts])
        return found[block.pre]


def _described(node: Node, matrices: Mapping[Node, Matrix]) -> tuple[str, Arrays]:
    """The kind of a node and its arrays."""
    op = node.op
    if not node.inputs:
        return "input", {}
    if isinstance(op, LinearOp):
        return _linear(node, op, matrices[node])
    known: dict[type, Callable[[Node], tuple[str, Arrays]]] = {
        Add: lambda n: ("add", {}),
        Concat: lambda n: ("concat", {f"places.{i}": p for i, p in enumerate(_places(n))}),
        Clamp: _clamp,
        Leaky: _leaky,
        MaxMin: _maxmin,
    }
    if type(op) not in known:
        name = node.name or "without a name"
        raise UnsupportedModel(f"--proof: {op.label} {name}: a certificate has no rule for this operator")
    return known[type(op)](node)


def _linear(node: Node, op: LinearOp, matrix: Matrix) -> tuple[str, Arrays]:
    zero = torch.zeros(1, *node.inputs[0].shape, dtype=torch.float64, device=_device(op))
    offset = _numbers(op(zero)[0], node.shape)
    magnitude = np.maximum(_numbers(op.offset_size(zero)[0], node.shape), np.abs(offset))
    alone = np.diff(matrix.indptr)
    if isinstance(op, Movement | Pad) and np.all(alone <= 1) and np.all(matrix.data == 1) and not magnitude.any():
        places = np.full(matrix.shape[0], -1, np.int64)
        places[alone == 1] = matrix.indices
        return "take", {"places": places}
    csr = {"data": matrix.data, "indices": matrix.indices.astype(np.int64), "indptr": matrix.indptr.astype(np.int64)}
    return "linear", {**csr, "offset": offset, "magnitude": magnitude}


def _device(op: LinearOp) -> torch.device:
    return next((t.device for t in op.tensors().values()), torch.device("cpu"))


def _numbers(values: Tensor, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.ascontiguousarray(values.detach().double().cpu().expand(shape).reshape(-1).numpy())


def _places(node: Node) -> list[NDArray[np.int64]]:
    """Where each input of a concatenation goes."""
    assert isinstance(node.op, Concat)
    everything = torch.arange(math.prod(node.shape)).reshape(node.shape)
    parts = everything.split([i.shape[node.op.axis] for i in node.inputs], node.op.axis)
    return [p.reshape(-1).numpy() for p in parts]


def _clamp(node: Node) -> tuple[str, Arrays]:
    assert isinstance(node.op, Clamp)
    low, high = (
        np.full(math.prod(node.shape), default) if bound is None else _numbers(bound, node.shape)
        for bound, default in ((node.op.low, -np.inf), (node.op.high, np.inf))
    )
    return "clamp", {"low": np.minimum(low, high), "high": high}  # the upper bound wins


def _leaky(node: Node) -> tuple[str, Arrays]:
    assert isinstance(node.op, Leaky)
    return "leaky", {"below": _numbers(node.op.slope_below, node.shape)}


def _maxmin(node: Node) -> tuple[str, Arrays]:
    assert isinstance(node.op, MaxMin)
    first, second = node.op.split(torch.arange(math.prod(node.shape)).reshape(1, *node.shape))
    low, high = (
        np.full(first.numel(), default) if bound is None else _numbers(bound, tuple(first.shape[1:]))
        for bound, default in ((node.op.low, -np.inf), (node.op.high, np.inf))
    )
    return "maxmin", {
        "first": first.reshape(-1).numpy(),
        "second": second.reshape(-1).numpy(),
        "low": low,
        "high": high,
    }
