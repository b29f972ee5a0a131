"""Random masked layers of every kind with their exact matrices, and norms of matrices in extended precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from drawing import Draw
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llcert.bounds.forward.joins import SideBySide
from llcert.ir import Input, LinearOp, Node, Op, Shape, apply
from llcert.ops import Add, BatchNorm, Concat, Conv, ConvTranspose, Linear, Reshape, SumPool
from llcert.program import Term
from llcert.spectral import Masked, Provable
from llcert.spectral.proof.explicit_matrix import explicit_matrix

Extended = NDArray[np.longdouble]


@dataclass(frozen=True)
class Layer:
    """A masked map of a few images, and the matrix of the map in extended precision."""

    kind: str
    masked: Masked
    matrix: Extended


def random_layer(seed: int, images: int = 2) -> Layer:
    """A masked layer; the same seed gives the same layer, and consecutive seeds go through the kinds."""
    draw = Draw(seed)
    kind, build = KINDS[seed % len(KINDS)]
    map_, matrix = build(draw)
    rows, columns = draw.factors(images, *_output(map_)), draw.factors(images, *map_.columns)
    return Layer(kind, Masked(map_, rows, columns), matrix)


def norm_from_below(layer: Layer, image: int) -> np.longdouble:
    """The norm of one image's map to 17 digits or so, never above the truth: a Rayleigh quotient."""
    rows = layer.masked.rows[image].flatten().numpy().astype(np.longdouble)
    columns = layer.masked.columns[image].flatten().numpy().astype(np.longdouble)
    return largest(rows[:, None] * layer.matrix * columns)


def largest(matrix: Extended) -> np.longdouble:
    """The largest singular value in extended precision, rounded down by a few units."""
    peak = np.abs(matrix).max(initial=0)
    if peak == 0:
        return np.longdouble(0)
    matrix = matrix[matrix.any(1)][:, matrix.any(0)] / peak
    v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)[2][0].astype(np.longdouble)
    for _ in range(3):
        v = matrix.T @ (matrix @ v)
        v = v / np.sqrt(v @ v)
    image = matrix @ v
    slack = 1 - 8 * sum(matrix.shape) * np.finfo(np.longdouble).eps
    return np.sqrt(image @ image / (v @ v)) * peak * slack


def _output(map_: Provable) -> Shape:
    return tuple(map_.apply(torch.zeros(1, *map_.columns, dtype=torch.float64)).shape[1:])


def exact(op: Op, shape: Shape) -> Extended:
    """The matrix of an operator in extended precision, rows and columns in row-major order."""
    assert isinstance(op, LinearOp)
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    if isinstance(op, BatchNorm):
        weight, variance = (t.numpy().astype(np.longdouble) for t in (op.weight, op.variance))
        scale = weight / np.sqrt(variance + np.longdouble(op.eps))
        return np.diag(np.repeat(scale, math.prod(shape[1:])))
    if isinstance(op, SumPool):
        return (op.linear(unit) != 0).flatten(1).T.numpy().astype(np.longdouble) * np.longdouble(op.weight)
    return op.linear(unit).flatten(1).T.numpy().astype(np.longdouble)


def term_of(shape: Shape, *ops: LinearOp) -> Term:
    """Operators one after the other."""
    source = node = apply(Input(shape))
    nodes = []
    for op in ops:
        node = apply(op, node)
        nodes.append(node)
    return Term(source, tuple(nodes), node, node)


def chain(shape: Shape, *ops: LinearOp) -> tuple[Term, Extended]:
    """Operators one after the other, and their matrix."""
    term, matrix = term_of(shape, *ops), None
    for node in term.nodes:
        step = exact(node.op, node.inputs[0].shape)
        # of convolutions most entries are zero, and no library multiplies extended precision fast
        matrix = step if matrix is None else csr_array(step) @ matrix
    assert matrix is not None
    return term, matrix


def _dense(draw: Draw) -> tuple[Term, Extended]:
    rows, columns = draw.choices.randint(1, 60), draw.choices.randint(1, 60)
    return chain((columns,), Linear(draw.normal(rows, columns)))


def convolution(draw: Draw, spatial: int, channels: int) -> Conv:
    """A convolution that fits images of nine pixels an axis."""
    axes = (draw.choices.randint(1, 3),) * spatial
    kernel = tuple(draw.choices.randint(1, 4) for _ in axes)
    stride = tuple(draw.choices.randint(1, 3) for _ in axes)
    padding = tuple(draw.choices.randint(0, 2) for _ in axes)
    dilation = tuple(draw.choices.randint(1, 2) for _ in axes)
    groups = draw.choices.choice([g for g in (1, 2, 3) if channels % g == 0])
    out = groups * draw.choices.randint(1, 2)
    return Conv(draw.normal(out, channels // groups, *kernel), None, stride, padding, dilation, groups)


def _image(draw: Draw, spatial: int) -> Shape:
    return (draw.choices.randint(1, 3), *(draw.choices.randint(7, 9) for _ in range(spatial)))


def _conv(spatial: int) -> Callable[[Draw], tuple[Term, Extended]]:
    def build(draw: Draw) -> tuple[Term, Extended]:
        shape = _image(draw, spatial)
        return chain(shape, convolution(draw, spatial, shape[0]))

    return build


def transposed(draw: Draw, channels: int) -> ConvTranspose:
    """A transposed convolution of two dimensions."""
    stride, dilation = draw.choices.randint(1, 2), draw.choices.randint(1, 2)
    weight = draw.normal(channels, 2, draw.choices.randint(1, 3), 3)
    extra = draw.choices.randint(0, max(stride, dilation) - 1)
    padding = draw.choices.randint(0, 1), 1
    return ConvTranspose(weight, None, (stride, 1), padding, (extra, 0), (dilation, 1))


def _conv_transpose(draw: Draw) -> tuple[Term, Extended]:
    shape = (draw.choices.randint(1, 2), 5, draw.choices.randint(4, 6))
    return chain(shape, transposed(draw, shape[0]))


def _pooled(draw: Draw) -> tuple[Term, Extended]:
    shape = _image(draw, 2)
    same = Conv(draw.normal(2, shape[0], 3, 3), None, (1, 1), (1, 1))
    size = draw.choices.choice([2, 3])
    return chain(shape, same, SumPool((size, size), (draw.choices.randint(1, 2),) * 2, 1 / size**2))


def batch_norm(draw: Draw, channels: int, spatial: int) -> BatchNorm:
    """A batch norm with statistics that fit nothing in particular."""
    values = draw.normal(channels), draw.normal(channels), draw.normal(channels), draw.normal(channels).square() + 0.1
    return BatchNorm(*values, spatial=spatial)


def _normalised(draw: Draw) -> tuple[Term, Extended]:
    shape = _image(draw, 2)
    same = Conv(draw.normal(3, shape[0], 3, 3), None, (1, 1), (1, 1))
    return chain(shape, batch_norm(draw, shape[0], 2), same, batch_norm(draw, 3, 2))


def _flattened(draw: Draw) -> tuple[Term, Extended]:
    shape = _image(draw, 2)
    size = math.prod(shape)
    same = Conv(draw.normal(shape[0], shape[0], 3, 3), None, (1, 1), (1, 1))
    return chain(shape, same, Reshape((size,)), Linear(draw.normal(draw.choices.randint(1, 9), size)))


def _residual(draw: Draw) -> tuple[Term, Extended]:
    shape = _image(draw, 2)
    source = apply(Input(shape))
    ops = [Conv(draw.normal(shape[0], shape[0], 3, 3), None, (1, 1), (1, 1)) for _ in range(2)]
    inner = [apply(op, source) for op in ops]
    total = apply(Add(), inner[0], source, inner[1])
    matrix = sum((exact(op, shape) for op in ops), np.eye(math.prod(shape), dtype=np.longdouble))
    return Term(source, (*inner, total), total, total), matrix


def _concatenated(draw: Draw) -> tuple[Term, Extended]:
    shape = _image(draw, 1)
    source = apply(Input(shape))
    ops = [Conv(draw.normal(2, shape[0], 3), None, (1,), (1,), (1,)) for _ in range(2)]
    inner: list[Node] = [apply(op, source) for op in ops]
    both = apply(Concat(0), *inner)
    return Term(source, (*inner, both), both, both), np.concatenate([exact(op, shape) for op in ops])


def _side_by_side(draw: Draw) -> tuple[SideBySide, Extended]:
    shape = _image(draw, 2)
    parts = [chain(shape, Conv(draw.normal(2, shape[0], 3, 3), None, (1, 1), (1, 1))) for _ in range(2)]
    return SideBySide(tuple(t for t, _ in parts)), np.concatenate([m for _, m in parts], 1)


KINDS: tuple[tuple[str, Callable[[Draw], tuple[Provable, Extended]]], ...] = (
    ("dense", _dense),
    ("convolution, one axis", _conv(1)),
    ("convolution, two axes", _conv(2)),
    ("transposed convolution", _conv_transpose),
    ("convolution and pool", _pooled),
    ("convolution and batch norm", _normalised),
    ("convolution and dense", _flattened),
    ("residual", _residual),
    ("concatenation", _concatenated),
    ("side by side", _side_by_side),
)


def computed_matrix(layer: Layer) -> tuple[Extended, int]:
    """The matrix of a layer's map as a proof computes it in float64, and the exponent it was scaled by."""
    found = explicit_matrix(layer.masked.map, torch.device("cpu"), 1e9)  # type: ignore[arg-type]
    assert found is not None
    entries = found.entries.numpy() if found.dense else found.entries.toarray()
    return np.ldexp(entries, found.exponent).astype(np.longdouble), found.exponent
