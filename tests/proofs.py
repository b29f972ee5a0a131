"""Proved passes over small networks, points of a ball, and evaluations in float32 with sums in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from denormals import flushing
from numpy.typing import NDArray
from torch import Tensor

from llcert.bounds import RowWeighting, Trace, VerifiedArithmetic, propagate
from llcert.bounds.backward.choices import Choice, Key
from llcert.bounds.backward.intermediate import Colorings
from llcert.bounds.forward.outward import enclosing_ball
from llcert.bounds.global_lipschitz.proof import proved_bound
from llcert.certification import Assurance, Settings
from llcert.certification.proof.build import provers_of
from llcert.certification.proof.prover import Prover
from llcert.certification.settings import Semantics
from llcert.domain.pixel_range import UNIT
from llcert.domain.relaxation import Relaxation
from llcert.domain.row_sharing import UNSHARED, RowSharing
from llcert.ir import Activation, Input, LinearOp, Network, Node, topological
from llcert.numerics.rounding import SINGLE
from llcert.numerics.tensors import flat
from llcert.ops import BatchNorm
from llcert.program import Program, lower
from llcert.spectral import VerifiedCholesky

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]


def proved(
    network: Network,
    image: Tensor,
    eps: float,
    *,
    weighting: RowWeighting = RowWeighting.SLOPE,
    deployed: bool = True,
    clip: bool = False,
) -> tuple[Program, Trace]:
    """The program in float64 and what is proved of its values."""
    program = lower(network, dtype=torch.float64)
    with torch.no_grad():
        bound = proved_bound(program, VerifiedCholesky())
        region = enclosing_ball(image.double(), eps, within=UNIT if clip else None)
        return program, propagate(
            program, region, VerifiedArithmetic(bound, VerifiedCholesky(), deployed=deployed), weighting=weighting
        )


def prover(network: Network, semantics: Semantics = Semantics.DEPLOYED, *, clip: bool = False) -> Prover:
    """The deterministic one."""
    return prover_of(network, Settings(0.0, semantics=semantics, clip_input=clip))


def prover_of(network: Network, settings: Settings) -> Prover:
    """The deterministic one, for these settings."""
    colorings = Colorings(lower(network, dtype=torch.float64))
    return provers_of(network, colorings, settings, ())[Assurance.DETERMINISTIC]


def points_of(image: Tensor, eps: float, count: int, seed: int) -> Tensor:
    """Points of the ball, half of them on its sphere, the image first, `[count, *shape]`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *image.shape[1:], generator=generator, dtype=torch.float64)
    noise = torch.nn.functional.normalize(flat(noise)).reshape(noise.shape)
    size = torch.rand(count, generator=generator, dtype=torch.float64)
    size[: count // 2], size[0] = 1 - 1e-12, 0
    return image.double() + eps * size.reshape(-1, *[1] * (image.ndim - 1)) * noise


def values_of(program: Program, points: Tensor) -> tuple[dict[Node, Tensor], dict[Node, Tensor]]:
    """Every block's value before and after its activation, in float64; the input stands among the latter."""
    before: dict[Node, Tensor] = {}
    after: dict[Node, Tensor] = {program.input: points}
    for block in program.blocks:
        z = before[block.node] = block.value(after)
        after[block.node] = z if block.activation is None else block.activation(z)
    return before, after


@dataclass(frozen=True)
class Silly:
    """Any slopes and multipliers, from a seed."""

    seed: int

    def __call__(self, key: Key, step: Relaxation, rows: Tensor, sharing: RowSharing = UNSHARED) -> Choice:
        generator = torch.Generator().manual_seed(self.seed + 100 * key[0] + key[1])
        noise = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
        slopes = step.slopes(rows) + noise * (torch.rand(rows.shape, generator=generator) < 0.3)
        lam = torch.rand(rows.shape[:2], generator=generator, dtype=rows.dtype) * 3
        return Choice(slopes, torch.where(lam < 1, 0.0, lam))


Order = Callable[[Doubles], Singles]
"""Sums exact products `[points, rows, columns]` over the last axis, every step rounded to float32."""


def _rounded(products: Doubles) -> Singles:
    with np.errstate(all="ignore"):
        return products.astype(np.float32)


def _sequentially(products: Singles) -> Singles:
    return np.add.accumulate(products, axis=-1, dtype=np.float32)[..., -1]


def _sorted(products: Singles) -> Singles:
    return np.sort(products, axis=-1)


def _alternating(products: Singles) -> Singles:
    """The largest, the smallest, the second largest, ...: partial sums stay small."""
    ascending = _sorted(products)
    out = np.empty_like(ascending)
    half = (products.shape[-1] + 1) // 2
    out[..., 0::2], out[..., 1::2] = ascending[..., ::-1][..., :half], ascending[..., : products.shape[-1] - half]
    return out


def _in_chunks(products: Singles) -> Singles:
    parts = np.array_split(products, max(products.shape[-1] // 3, 1), axis=-1)
    return _sequentially(np.stack([_sequentially(p) for p in parts], -1))


def _fused(products: Doubles) -> Singles:
    """Multiply-adds that round once: products enter the sum as they are. The offset, which comes last, begins."""
    total = _rounded(products[..., -1])
    for column in range(products.shape[-1] - 1):
        total = _rounded(total.astype(np.float64) + products[..., column])
    return total


ORDERS: dict[str, Order] = {
    "as they stand": lambda p: _sequentially(_rounded(p)),
    "backwards": lambda p: _sequentially(_rounded(p)[..., ::-1]),
    "ascending": lambda p: _sequentially(_sorted(_rounded(p))),
    "descending": lambda p: _sequentially(_sorted(_rounded(p))[..., ::-1]),
    "alternating": lambda p: _sequentially(_alternating(_rounded(p))),
    "chunks": lambda p: _in_chunks(_rounded(p)),
    "fused": _fused,
}


def in_float32(network: Network, points: Tensor, order: Order | None, *, flush: bool = False) -> dict[Node, Tensor]:
    """Every node's value, node by node in float32, `[points, *shape]`. order: None for torch's own kernels.

    flush: subnormal values and weights count as zero.
    """
    values: dict[Node, Tensor] = {}
    for node in topological(network.output):
        if isinstance(node.op, Input):
            values[node] = points.float()
            continue
        op, inputs = node.op.to("cpu", torch.float32), [values[i] for i in node.inputs]
        if order is None or not isinstance(op, LinearOp) or op.is_scaled_permutation:
            value = flushing(lambda op=op, inputs=inputs: op(*inputs)) if flush else op(*inputs)
        else:
            value = _summed(op, inputs[0], order, flush=flush)
        values[node] = _without_subnormals(value) if flush else value
    return values


def _summed(op: LinearOp, x: Tensor, order: Order, *, flush: bool) -> Tensor:
    shape = tuple(x.shape[1:])
    unit = torch.eye(x[0].numel(), dtype=torch.float32).reshape(-1, *shape)
    matrix = flat(op.linear(unit)).T.numpy()
    like = op.linear(x[:1])
    offset = torch.zeros_like(like) if op.offset is None else op.offset.expand_as(like)
    parts = [matrix, flat(x).numpy(), offset.flatten().numpy()]
    if flush:
        parts = [_without_subnormals(torch.from_numpy(p.copy())).numpy() for p in parts]
    weights, inputs, shift = parts
    with np.errstate(all="ignore"):
        products = weights[None].astype(np.float64) * inputs[:, None]
        every = np.concatenate([products, np.broadcast_to(shift[None, :, None], (*products.shape[:2], 1))], 2)
        total = order(every)
    return torch.from_numpy(np.ascontiguousarray(total)).reshape(len(x), *like.shape[1:])


def _without_subnormals(x: Tensor) -> Tensor:
    return torch.where(x.abs() < SINGLE.tiny, 0.0, x)


def other_batch_norm(op: BatchNorm, x: Tensor) -> Tensor:
    """`x a + (b - m a)`, as libraries spell it too."""
    scale = op.scale
    shift = op.bias.reshape(scale.shape) - op.mean.reshape(scale.shape) * scale
    return x * scale + shift


def stays_inside(program: Program, trace: Trace, before: dict[Node, Tensor], after: dict[Node, Tensor]) -> None:
    """Asserts that values lie in every box and every ball, exactly; what does not vary stands still."""
    for node, hidden in trace.post_activation.items():
        region, value = hidden.region, after[node].double()
        assert bool(((value >= region.lower) & (value <= region.upper)).all()), node.op.label
        assert bool((_longest(value - region.centre) <= region.radius.numpy()).all()), node.op.label
        if node is not program.input:
            still = ~hidden.varying[0]
            assert bool((value == region.centre)[:, still].all()), f"{node.op.label}: a constant output moved"
    for node, z in trace.pre_activation.items():
        value, (weights, radius) = before[node].double(), trace.weighted[node]
        assert bool(((value >= z.lower) & (value <= z.upper)).all()), node.op.label
        assert bool((_longest((value - z.centre) * weights) <= radius.numpy()).all()), node.op.label


def _longest(x: Tensor) -> NDArray[np.longdouble]:
    """Lengths in extended precision, a few units below."""
    wide = flat(x).numpy().astype(np.longdouble)
    return np.sqrt((wide * wide).sum(1)) * (1 - np.longdouble(1e-15))


def deployed_values(network: Network, program: Program, values: dict[Node, Tensor]) -> tuple[dict, dict]:
    """Values of a network's nodes as those of its program's blocks, before and after activations."""
    order, lowered = topological(network.output), topological(program.output)
    known = dict(zip(lowered, (values[n] for n in order), strict=True))
    before = {b.node: known[b.pre] for b in program.blocks}
    after = {program.input: known[program.input], **{b.node: known[b.node] for b in program.blocks}}
    return before, after


def is_smooth(network: Network) -> bool:
    return any(isinstance(n.op, Activation) and not n.op.relative for n in network.operators())
