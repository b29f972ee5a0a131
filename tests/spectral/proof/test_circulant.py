"""Bounds of whole operators and terms, among them the padded torus, against extended precision."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from drawing import normal
from numpy.typing import NDArray
from random_layers import Draw, batch_norm, chain, convolution, exact, largest, random_layer, term_of, transposed
from torch import Tensor

from llcert.bounds.global_lipschitz.norms import global_norm, operator_bound
from llcert.ir import LinearOp, Shape
from llcert.ops import Affine, Conv, ConvTranspose, Expand, Linear, Pad, Reduce, SumPool, Take, Transpose
from llcert.program import Term
from llcert.spectral import PowerIteration, VerifiedCholesky, torus_bound


def _random(seed: int) -> tuple[LinearOp, Shape]:
    draw = Draw(seed)
    if seed % 4 == 0:
        channels = draw.choices.randint(1, 3)
        return transposed(draw, channels), (channels, draw.choices.randint(3, 5), draw.choices.randint(3, 6))
    spatial = 1 + seed % 2
    shape = (draw.choices.choice([1, 2, 4]), *(draw.choices.randint(7, 9) for _ in range(spatial)))
    return convolution(draw, spatial, shape[0]), shape


def test_convolutions(request: pytest.FixtureRequest) -> None:
    excess = []
    for seed in range(request.config.getoption("--layers")):
        op, shape = _random(seed)
        truth = largest(exact(op, shape))
        bound = op.norm_bound(shape)
        assert np.longdouble(bound) >= truth, (seed, op)
        excess.append(float(bound / truth) - 1 if truth else bound)
    assert statistics.median(excess) <= 0.15, "small images are mostly border, but not that much"


def test_every_size_of_one_axis() -> None:
    """Images smaller than the kernel, more zeros than image, sites that nothing reads."""
    sizes = itertools.product(range(1, 8), range(1, 5), range(1, 4), range(5), range(1, 4))
    for seed, (inputs, kernel, stride, padding, dilation) in enumerate(sizes):
        if inputs + 2 * padding <= dilation * (kernel - 1):
            continue
        conv = Conv(normal(1 + seed % 2, 1 + seed % 3, kernel, seed=seed), None, (stride,), (padding,), (dilation,))
        truth = largest(exact(conv, (conv.weight.shape[1], inputs)))
        assert np.longdouble(_torus(conv, (inputs,))) >= truth, conv


def _torus(conv: Conv, inputs: Shape) -> float:
    outputs = tuple(conv.linear(torch.zeros(1, conv.weight.shape[1] * conv.groups, *inputs).double()).shape[2:])
    return torus_bound(conv.weight, inputs, outputs, conv.stride, conv.padding, conv.dilation, conv.groups)


@pytest.mark.parametrize("axes", [1, 2])
def test_a_circular_convolution_is_met_exactly(axes: int) -> None:
    """What the torus computes, computed by brute force: the convolution of an image that repeats itself, or changes its
    sign wherever it would."""
    for seed in range(30 if axes == 1 else 10):
        draw = Draw(seed)
        stride, dilation, out = (tuple(draw.choices.randint(1, 3) for _ in range(axes)) for _ in range(3))
        weight = draw.normal(2, 3, *(draw.choices.randint(1, 4) for _ in range(axes)))
        reads = [
            s * (o - 1) + d * (k - 1) + 1 for s, o, d, k in zip(stride, out, dilation, weight.shape[2:], strict=True)
        ]
        counts = [-(-reach // s) for reach, s in zip(reads, stride, strict=True)]
        truth = min(
            largest(_wrapped(weight, counts, stride, dilation, signs))
            for signs in itertools.product((1, -1), repeat=axes)
        )
        bound = torus_bound(weight, tuple(reads), out, stride, (0,) * axes, dilation)
        assert truth <= np.longdouble(bound) <= truth * (1 + 1e-7)


def _wrapped(
    weight: Tensor, counts: list[int], stride: Shape, dilation: Shape, signs: tuple[int, ...]
) -> NDArray[np.longdouble]:
    """The matrix of a circular convolution; signs: what going round each axis multiplies by."""
    sizes = [s * n for s, n in zip(stride, counts, strict=True)]
    matrix = torch.zeros(weight.shape[0], *counts, weight.shape[1], *sizes, dtype=torch.float64)
    for place in itertools.product(*(range(n) for n in counts)):
        for tap in itertools.product(*(range(k) for k in weight.shape[2:])):
            sites = [s * o + d * t for s, o, d, t in zip(stride, place, dilation, tap, strict=True)]
            sign = math.prod(g ** (site // size) for g, site, size in zip(signs, sites, sizes, strict=True))
            where = tuple(site % size for site, size in zip(sites, sizes, strict=True))
            row: tuple[slice | int, ...] = (slice(None), *place, slice(None), *where)
            matrix[row] += sign * weight.movedim((0, 1), (-2, -1))[tap]
    return matrix.reshape(weight.shape[0] * math.prod(counts), -1).numpy().astype(np.longdouble)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_smoothing_is_met_exactly(size: int) -> None:
    """The norm of the convolution by (1, 2, 1) is that of half-way frequencies of one site more."""
    conv = Conv(torch.tensor([[[1.0, 2.0, 1.0]]], dtype=torch.float64), None, (1,), (1,), (1,))
    truth = 2 + 2 * math.cos(math.pi / (size + 1))
    assert truth * (1 - 1e-14) <= _torus(conv, (size,)) <= truth * (1 + 1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_large_image_is_bounded_closely(stride: int) -> None:
    conv = Conv(normal(3, 2, 3, 3), None, (stride, stride), (1, 1))
    proved = global_norm(term_of((2, 32, 32), conv), VerifiedCholesky())
    assert proved <= conv.norm_bound((2, 32, 32)) <= proved * 1.03


def test_many_channels() -> None:
    weight = normal(300, 280, 1, 1)
    truth = largest(weight[:, :, 0, 0].numpy().astype(np.longdouble))
    assert truth <= np.longdouble(torus_bound(weight, (3, 3), (3, 3), (1, 1), (0, 0), (1, 1))) <= truth * 1.03


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scales(scale: float) -> None:
    conv = Conv(normal(2, 2, 3, 3) * scale, None, (1, 1), (1, 1))
    truth = largest(exact(conv, (2, 6, 6)))
    assert truth <= np.longdouble(conv.norm_bound((2, 6, 6))) <= truth * 1.3 + 1e-300


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poison_bounds_nothing(poison: float) -> None:
    weight = normal(2, 2, 3, 3)
    weight[1, 0, 2, 1] = poison
    for op in (Conv(weight, None, (1, 1), (1, 1)), ConvTranspose(weight), Linear(weight[1, 0]), Affine(weight[1, 0])):
        shape = (2, 6, 6) if isinstance(op, Conv | ConvTranspose) else (3, 3)
        assert op.norm_bound(shape) == math.inf
        term, _ = chain(shape, op)
        assert global_norm(term, VerifiedCholesky()) == math.inf


def test_zero_weights() -> None:
    assert 0 <= Conv(torch.zeros(2, 2, 3, 3), None, (1, 1), (1, 1)).norm_bound((2, 6, 6)) <= 1e-290


@pytest.mark.parametrize(
    "op",
    [
        Affine(normal(3, 4, 4), normal(4)),
        batch_norm(Draw(0), 3, 2),
        Transpose((2, 0, 1)),
        Pad(((0, 1), (1, 0), (0, 0))),
        Take(1, (0, 0, 3, 2, 0)),
        Expand((2, 3, 4, 4)),
        Reduce((1,), 0.25),
        SumPool((2, 2), (1, 1), 0.25),
        Linear(normal(5, 4)),
        Linear(normal(5, 4).float()),
    ],
    ids=lambda op: op.label,
)
def test_other_operators(op: LinearOp) -> None:
    truth = largest(exact(op.to("cpu", torch.float64), (3, 4, 4)))
    bound = op.norm_bound((3, 4, 4))
    assert truth <= np.longdouble(bound) <= truth * 2.2
    if op.is_scaled_permutation:
        assert bound <= truth * (1 + 1e-13)


def test_terms(request: pytest.FixtureRequest) -> None:
    for seed in range(request.config.getoption("--layers")):
        layer = random_layer(seed)
        term = layer.masked.map
        if not isinstance(term, Term):
            continue
        truth = largest(layer.matrix)
        alone, both = operator_bound(term), global_norm(term, VerifiedCholesky())
        assert np.longdouble(min(alone, both)) >= truth, (seed, layer.kind)
        assert both <= truth * (1 + 1.01e-4), (seed, layer.kind)


def test_an_estimate_is_no_bound() -> None:
    term, _ = chain((5,), Linear(normal(4, 5)))
    assert global_norm(term, PowerIteration()) == operator_bound(term)
