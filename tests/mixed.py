"""Networks whose values have different number formats, and their evaluation in those, sums in any order."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from llcert.ir import Input, LinearOp, Network, Node, apply, topological
from llcert.ops import Divide
from llcert.ops.cast import cast

FORMATS = (torch.float32, torch.float64)


def mixed(network: Network, seed: int) -> Network:
    """The network with every value, the image too, in a format that the seed decides, and some divided by three.

    Parameters are in the format of their value, so that a runtime can hold them.
    """
    choices = random.Random(seed)
    new: dict[Node, Node] = {}
    for node in topological(network.output):
        dtype = choices.choice(FORMATS)
        if isinstance(node.op, Input):
            new[node] = apply(Input(node.shape, dtype))
        else:
            value = apply(node.op.to("cpu", dtype), *(cast(new[i], dtype) for i in node.inputs))
            new[node] = apply(Divide(torch.tensor(3.0)), value) if choices.random() < 0.2 else value
    return Network(cast(new[network.output], choices.choice(FORMATS)))


def in_own_formats(network: Network, points: Tensor, seed: int, *, flush: bool = False) -> dict[Node, Tensor]:
    """Every node's value in its own format, `[points, *shape]`, sums in orders that the seed decides.

    flush: float32 subnormals count as zero wherever they are made or read.
    """
    generator = np.random.default_rng(seed)
    values: dict[Node, Tensor] = {}
    for node in topological(network.output):
        if isinstance(node.op, Input):
            value = points
        else:
            op, inputs = node.op.to("cpu", node.dtype), [values[i] for i in node.inputs]
            adds = isinstance(op, LinearOp) and not op.is_scaled_permutation and seed % 4
            value = _summed(op, inputs[0], generator) if adds else op(*inputs)
        with np.errstate(over="ignore"):
            value = value.to(node.dtype)
        tiny = torch.finfo(torch.float32).tiny
        values[node] = torch.where(value.abs() < tiny, 0, value) if flush and node.dtype == torch.float32 else value
    return values


def _summed(op: LinearOp, x: Tensor, generator: np.random.Generator) -> Tensor:
    """`A x + b`, every product and every partial sum rounded, the terms in some order."""
    unit = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
    matrix, like = op.linear(unit).flatten(1).T.numpy(), op.linear(x[:1])
    offset = torch.zeros_like(like) if op.offset is None else op.offset.expand_as(like)
    products = matrix[None] * x.flatten(1).numpy()[:, None]
    shift = np.broadcast_to(offset.flatten().numpy()[None, :, None], (*products.shape[:2], 1))
    terms = np.concatenate([products, shift], 2)
    some = generator.permutation(terms.shape[-1])
    terms = terms[..., some] if generator.random() < 0.5 else np.sort(terms, axis=-1)
    total = np.add.accumulate(terms, axis=-1, dtype=terms.dtype)[..., -1]
    return torch.from_numpy(np.ascontiguousarray(total)).reshape(len(x), *like.shape[1:])
