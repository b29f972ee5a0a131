"""Every spelling of every operator: recognised, and computed as onnxruntime computes it (load checks that itself)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from drawing import ints
from onnx_text import imported, noise, operators
from torch import Tensor

from llcert.api import load
from llcert.frontend.onnx_file import save

IMAGE = "float[N,3,8,8] x"
ROW = "float[N,12] x"
LINE = "float[N,3,9] x"


@dataclass(frozen=True)
class Spelling:
    """What a file says, and which operators it should become."""

    body: str
    labels: str
    constants: dict[str, Tensor] = field(default_factory=dict)
    image: str = IMAGE
    opset: int = 17
    output: str = "y"


W, W4, B8 = noise(8, 3, 3, 3), noise(8, 3, 4, 4), noise(8)
DENSE, TALL = noise(12, 5), noise(5, 12)
STATISTICS = {
    "g": noise(3).abs() + 0.5,
    "b": noise(3, seed=1),
    "m": noise(3, seed=2),
    "v": noise(3, seed=3).abs() + 0.1,
}
THETA = noise(3, 1, 1).abs()

CONVOLUTIONS = {
    "conv": Spelling("h = Conv(x, w, b) y = Flatten(h)", "Conv Reshape", {"w": W, "b": B8}),
    "strided, dilated": Spelling(
        "h = Conv<strides=[2,1], dilations=[1,2], pads=[1,2,1,2]>(x, w) y = Flatten(h)", "Conv Reshape", {"w": W}
    ),
    "uneven pads": Spelling("h = Conv<pads=[1,0,2,1]>(x, w) y = Flatten(h)", "Pad Conv Reshape", {"w": W}),
    "SAME_UPPER": Spelling(
        'h = Conv<auto_pad="SAME_UPPER", strides=[1,2]>(x, w) y = Flatten(h)', "Pad Conv Reshape", {"w": W4}
    ),
    "SAME_LOWER": Spelling('h = Conv<auto_pad="SAME_LOWER">(x, w) y = Flatten(h)', "Pad Conv Reshape", {"w": W4}),
    "SAME_UPPER even": Spelling('h = Conv<auto_pad="SAME_UPPER">(x, w) y = Flatten(h)', "Conv Reshape", {"w": W}),
    "VALID": Spelling('h = Conv<auto_pad="VALID">(x, w) y = Flatten(h)', "Conv Reshape", {"w": W}),
    "depthwise": Spelling("h = Conv<group=3>(x, w) y = Flatten(h)", "Conv Reshape", {"w": noise(6, 1, 3, 3)}),
    "1-d": Spelling("h = Conv<pads=[1,0]>(x, w) y = Flatten(h)", "Pad Conv Reshape", {"w": noise(4, 3, 3)}, LINE),
    "transposed": Spelling(
        "h = ConvTranspose<strides=[2,2], pads=[1,0,0,1], output_padding=[1,1]>(x, w, b) y = Flatten(h)",
        "ConvTranspose Take Take Reshape",
        {"w": noise(3, 8, 3, 3), "b": B8},
    ),
    "transposed, grouped, even": Spelling(
        "h = ConvTranspose<strides=[2,2], pads=[1,1,1,1], group=3>(x, w) y = Flatten(h)",
        "ConvTranspose Reshape",
        {"w": noise(3, 2, 3, 3)},
    ),
    "transposed, output_shape": Spelling(
        "h = ConvTranspose<strides=[2,2], output_shape=[16,15]>(x, w) y = Flatten(h)",
        "ConvTranspose Take Reshape",
        {"w": noise(3, 4, 3, 3)},
    ),
    "transposed, SAME_UPPER": Spelling(
        'h = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, w) y = Flatten(h)',
        "ConvTranspose Take Take Reshape",
        {"w": noise(3, 4, 3, 3)},
    ),
    "weights in the graph": Spelling(
        "n = ReduceL2<axes=[1,2,3]>(v) u = Div(v, n) w = Mul(u, g) h = Conv(x, w) y = Flatten(h)",
        "Conv Reshape",
        {"v": W, "g": noise(8, 1, 1, 1)},
    ),
    "quantised weights": Spelling(
        "w = DequantizeLinear(q, s, z) h = Conv(x, w) y = Flatten(h)",
        "Conv Reshape",
        {"q": (W * 20).to(torch.int8), "s": torch.tensor(0.05), "z": torch.tensor(0, dtype=torch.int8)},
    ),
    "half-precision weights": Spelling(
        "w = Cast<to=1>(q) h = Conv(x, w) y = Flatten(h)", "Conv Reshape", {"q": W.half()}
    ),
}
DENSE_LAYERS = {
    "gemm": Spelling("y = Gemm(x, w, c)", "Linear", {"w": DENSE, "c": noise(5)}, ROW),
    "gemm, all attributes": Spelling(
        "y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c)", "Linear Affine", {"w": TALL, "c": noise(1, 5)}, ROW
    ),
    "gemm, number": Spelling("y = Gemm<transB=1>(x, w, c)", "Linear", {"w": TALL, "c": noise(1)}, ROW),
    "gemm, none": Spelling("y = Gemm(x, w)", "Linear", {"w": DENSE}, ROW, 11),
    "matmul": Spelling("y = MatMul(x, w)", "Linear", {"w": DENSE}, ROW),
    "matmul, add": Spelling("h = MatMul(x, w) y = Add(h, c)", "Linear", {"w": DENSE, "c": noise(5)}, ROW),
    "add, matmul": Spelling("h = MatMul(x, w) y = Add(c, h)", "Linear", {"w": DENSE, "c": noise(5)}, ROW),
    "constant left": Spelling(
        "h = MatMul(w, x) k = Add(h, c) y = Flatten(k)",
        "Reshape Linear",
        {"w": TALL, "c": noise(5, 1)},
        "float[1,12,1] x",
    ),
    "constant left, columns": Spelling(
        "h = MatMul(w, x) y = Flatten(h)", "Transpose Linear Transpose Reshape", {"w": TALL}, "float[N,12,2] x"
    ),
    "per row": Spelling("h = MatMul(x, w) y = Flatten(h)", "Linear Reshape", {"w": noise(9, 4)}, LINE),
    "vector": Spelling("h = MatMul(x, w) y = Flatten(h)", "Linear Reshape", {"w": noise(9)}, LINE),
    "identity, transpose": Spelling(
        "i = Identity(w) t = Transpose<perm=[1,0]>(i) y = MatMul(x, t)", "Linear", {"w": TALL}, ROW
    ),
    "normalised rows": Spelling(
        "n = ReduceL2<axes=[1]>(w) k = Clip(n, e) s = Shape(w) f = Expand(k, s) u = Div(w, f) y = Gemm<transB=1>(x, u)",
        "Linear",
        {"w": TALL, "e": torch.tensor(1e-12)},
        ROW,
    ),
}
NORMALISATION = {
    f"opset {opset}": Spelling(
        "h = BatchNormalization<epsilon=0.01>(x, g, b, m, v) y = Flatten(h)",
        "BatchNorm Reshape",
        STATISTICS,
        opset=opset,
    )
    for opset in (7, 9, 14, 15)
} | {
    "sub, div": Spelling(
        "h = Sub(x, m) k = Div(h, s) y = Flatten(k)",
        "Affine Divide Reshape",
        {"m": noise(1, 3, 1, 1), "s": noise(3, 1, 1).abs() + 0.1},
    ),
    "mul, add": Spelling("h = Mul(x, m) k = Add(h, m) y = Flatten(k)", "Affine Reshape", {"m": noise(3, 1, 1)}),
    "constant minus": Spelling("h = Sub(m, x) y = Flatten(h)", "Affine Reshape", {"m": torch.tensor(1.0)}),
    "negation": Spelling("h = Neg(x) y = Flatten(h)", "Affine Reshape"),
    "enlarging": Spelling(
        "h = Add(x, m) y = Flatten(h)", "Expand Affine Reshape", {"m": noise(4, 9)}, "float[N,1,9] x"
    ),
    "mean of two": Spelling("h = Relu(x) k = Mean(x, h) y = Flatten(k)", "ReLU Add Affine Reshape"),
}
JOINS = {
    "residual": Spelling("h = Relu(x) k = Add(x, h) y = Flatten(k)", "ReLU Add Reshape"),
    "difference": Spelling("h = Tanh(x) k = Sub(x, h) y = Flatten(k)", "Tanh Affine Add Reshape"),
    "sum": Spelling("h = Relu(x) t = Tanh(x) k = Sum(x, h, t) y = Flatten(k)", "ReLU Tanh Add Reshape"),
    "broadcast": Spelling("h = GlobalAveragePool(x) k = Add(x, h) y = Flatten(k)", "Reduce Reshape Expand Add Reshape"),
    "concat": Spelling("h = Relu(x) k = Concat<axis=1>(x, h) y = Flatten(k)", "ReLU Concat Reshape"),
    "concat, last axis": Spelling("h = Relu(x) k = Concat<axis=-1>(x, h) y = Flatten(k)", "ReLU Concat Reshape"),
    "concat with constants": Spelling(
        "h = Concat<axis=1>(c, x, d) y = Flatten(h)",
        "Pad Affine Reshape",
        {"c": noise(1, 2, 8, 8), "d": torch.zeros(1, 1, 8, 8)},
        "float[1,3,8,8] x",
    ),
}
SHAPES = {
    "flatten 0": Spelling("y = Flatten<axis=0>(x)", "Reshape", image="float[1,3,8,8] x"),
    "flatten -3": Spelling("y = Flatten<axis=-3>(x)", "Reshape"),
    **{
        f"reshape {target}": Spelling("y = Reshape(x, s)", "Reshape", {"s": ints(*target)}, image)
        for target, image in (
            ((-1, 192), IMAGE),
            ((0, -1), IMAGE),
            ((1, -1), "float[1,3,8,8] x"),
            ((1, 192), "float[1,3,8,8] x"),
            ((0, 192), IMAGE),
        )
    },
    "allowzero": Spelling("y = Reshape<allowzero=1>(x, s)", "Reshape", {"s": ints(-1, 192)}),
    "shape chain": Spelling(
        "s = Shape(x) n = Gather(s, z) u = Unsqueeze(n, a) t = Concat<axis=0>(u, m) y = Reshape(x, t)",
        "Reshape",
        {"z": torch.tensor(0), "a": ints(0), "m": ints(-1)},
    ),
    "keras chain": Spelling(
        "s = Shape(x) g = Gather(s, z) c = Cast<to=1>(g) d = Slice(c, a, b) k = Concat<axis=0>(d, m) "
        "t = Cast<to=7>(k) y = Reshape(x, t)",
        "Reshape",
        {"z": ints(0), "a": ints(0), "b": ints(1), "m": torch.tensor([-1.0])},
    ),
    "shape, start and end": Spelling(
        "s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, m) y = Reshape(x, t)", "Reshape", {"m": ints(192)}
    ),
    "squeeze": Spelling("h = GlobalAveragePool(x) y = Squeeze(h, a)", "Reduce", {"a": ints(2, 3)}),
    "squeeze, attribute": Spelling("h = GlobalAveragePool(x) y = Squeeze<axes=[-1,-2]>(h)", "Reduce", opset=11),
    "unsqueeze": Spelling("h = Unsqueeze(x, a) k = Relu(h) y = Flatten(k)", "ReLU Reshape", {"a": ints(1, -1)}),
    "transpose": Spelling("h = Transpose<perm=[0,2,3,1]>(x) y = Flatten(h)", "Transpose Reshape"),
    "there and back": Spelling(
        "h = Transpose<perm=[0,2,3,1]>(x) r = Relu(h) k = Transpose<perm=[0,3,1,2]>(r) y = Flatten(k)", "ReLU Reshape"
    ),
    "expand": Spelling(
        "h = Expand(x, s) y = Flatten(h)", "Expand Reshape", {"s": ints(1, 3, 2, 9)}, "float[N,3,1,9] x"
    ),
    "tile": Spelling("h = Tile(x, r) y = Flatten(h)", "Take Reshape", {"r": ints(1, 1, 2)}, LINE),
    "depth to space": Spelling(
        "h = DepthToSpace<blocksize=2>(x) y = Flatten(h)", "Reshape Transpose Reshape", image="float[N,8,4,4] x"
    ),
    "depth to space, CRD": Spelling(
        'h = DepthToSpace<blocksize=2, mode="CRD">(x) y = Flatten(h)',
        "Reshape Transpose Reshape",
        image="float[N,8,4,4] x",
    ),
    "space to depth": Spelling("h = SpaceToDepth<blocksize=2>(x) y = Flatten(h)", "Reshape Transpose Reshape"),
    "identity, dropout, cast": Spelling(
        "a = Identity(x) b = Dropout(a) c = Cast<to=11>(b) d = Cast<to=1>(c) y = Flatten(d)", "Reshape"
    ),
    "split": Spelling(
        "a, b = Split<axis=1>(x, s) c = Relu(a) k = Concat<axis=1>(b, c) y = Flatten(k)",
        "Take Take ReLU Concat Reshape",
        {"s": ints(1, 2)},
    ),
    "split, attribute": Spelling("a, b = Split<axis=1, split=[1,2]>(x) y = Flatten(b)", "Take Reshape", opset=11),
    "split, num_outputs": Spelling(
        "a, b = Split<axis=2, num_outputs=2>(x) y = Flatten(b)", "Take Reshape", image="float[N,3,7] x", opset=18
    ),
    "slice": Spelling(
        "h = Slice(x, a, b, c, d) y = Flatten(h)",
        "Take Take Reshape",
        {"a": ints(-1, 1), "b": ints(-(2**63), 2**63 - 1), "c": ints(2, 3), "d": ints(-2, 3)},
    ),
    "slice, attributes": Spelling(
        "h = Slice<starts=[0,1], ends=[9223372036854775807,2], axes=[0,1]>(x) y = Flatten(h)", "Take Reshape", opset=9
    ),
    "gather": Spelling("h = Gather<axis=1>(x, i) y = Flatten(h)", "Take Reshape", {"i": ints(2, -3)}),
    "gather one": Spelling("h = Gather<axis=-1>(x, i) y = Flatten(h)", "Take Reshape", {"i": torch.tensor(3)}),
}
PADDING = {
    "pads": Spelling(
        "h = Pad(x, p, v) y = Flatten(h)", "Pad Reshape", {"p": ints(0, 0, 1, 2, 0, 1, 0, 0), "v": torch.tensor(0.5)}
    ),
    "attribute": Spelling("h = Pad<pads=[0,0,1,0,0,0,0,2], value=0.25>(x) y = Flatten(h)", "Pad Reshape", opset=9),
    "axes": Spelling("h = Pad(x, p, , a) y = Flatten(h)", "Pad Reshape", {"p": ints(1, 2), "a": ints(-1)}, opset=18),
    "negative": Spelling("h = Pad(x, p) y = Flatten(h)", "Take Pad Reshape", {"p": ints(0, 0, -1, 0, 0, 0, -2, 1)}),
    **{
        mode: Spelling(
            f'h = Pad<mode="{mode}">(x, p) y = Flatten(h)',
            "Take Take Reshape",
            {"p": ints(0, 0, 2, 3, 0, 0, 1, 2)},
            opset=19,
        )
        for mode in ("reflect", "edge", "wrap")
    },
}
POOLS = {
    "average": Spelling("h = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) y = Flatten(h)", "SumPool Reshape"),
    "average, padded": Spelling(
        "h = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) y = Flatten(h)",
        "Pad SumPool Reshape",
    ),
    "average, padding not counted": Spelling(
        "h = AveragePool<kernel_shape=[3,3], pads=[1,0,1,1], strides=[2,2]>(x) y = Flatten(h)",
        "Pad SumPool Divide Reshape",
    ),
    "average, ceil": Spelling(
        "h = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) y = Flatten(h)",
        "Pad SumPool Divide Reshape",
    ),
    "average, SAME": Spelling(
        'h = AveragePool<kernel_shape=[3,2], strides=[2,1], auto_pad="SAME_UPPER">(x) y = Flatten(h)',
        "Pad SumPool Divide Reshape",
    ),
    "average, 1-d": Spelling("h = AveragePool<kernel_shape=[4]>(x) y = Flatten(h)", "SumPool Reshape", image=LINE),
    "global average": Spelling("h = GlobalAveragePool(x) y = Flatten(h)", "Reduce"),
    "mean": Spelling("y = ReduceMean<axes=[2,3], keepdims=0>(x)", "Reduce"),
    "mean, input": Spelling("h = ReduceMean(x, a) y = Flatten(h)", "Reduce", {"a": ints(-1, -2)}, opset=18),
    "sum of one axis": Spelling("h = ReduceSum<keepdims=0>(x, a) y = Flatten(h)", "Reduce Reshape", {"a": ints(1)}),
    "max": Spelling("h = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Flatten(h)", "MaxPool Reshape"),
    "max, padded, dilated": Spelling(
        "h = MaxPool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,0,1], dilations=[2,1]>(x) y = Flatten(h)",
        "MaxPool Reshape",
    ),
    "max, ceil": Spelling(
        "h = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) y = Flatten(h)", "MaxPool Reshape"
    ),
    "global max": Spelling("h = GlobalMaxPool(x) y = Flatten(h)", "MaxPool Reshape"),
    "reduce max": Spelling("y = ReduceMax<axes=[2,3], keepdims=0>(x)", "Reshape MaxPool Reshape"),
    "reduce min": Spelling("y = ReduceMin<axes=[2,3], keepdims=0>(x)", "Affine Reshape MaxPool Affine Reshape"),
    "channel maximum": Spelling("h = ReduceMax<axes=[1]>(x) y = Flatten(h)", "GroupSort(3) Take Reshape"),
}
ONE, HALF = torch.tensor(1.0), torch.tensor(-0.5)
ACTIVATIONS = {
    "relu": Spelling("h = Relu(x) y = Flatten(h)", "ReLU Reshape"),
    "clip 6": Spelling("h = Clip<min=-0.5, max=1.0>(x) y = Flatten(h)", "Clamp Reshape", opset=7),
    "clip 6, no minimum": Spelling("h = Clip<max=1.0>(x) y = Flatten(h)", "Clamp Reshape", opset=9),
    "clip": Spelling("h = Clip(x, a, b) y = Flatten(h)", "Clamp Reshape", {"a": HALF, "b": ONE}),
    "clip, empty minimum": Spelling("h = Clip(x, , b) y = Flatten(h)", "Clamp Reshape", {"b": ONE}),
    "clip, empty maximum": Spelling("h = Clip(x, a, ) y = Flatten(h)", "Clamp Reshape", {"a": HALF}),
    "clip, constants": Spelling(
        "a = Constant<value_float=0.0>() b = Constant<value_float=6.0>() h = Clip(x, a, b) y = Flatten(h)",
        "ReLU-theta Reshape",
    ),
    "relu, min": Spelling("h = Relu(x) k = Min(h, t) y = Flatten(k)", "ReLU-theta Reshape", {"t": THETA}),
    "min, clip": Spelling(
        "h = Min(x, t) k = Clip(h, z) y = Flatten(k)", "ReLU-theta Reshape", {"t": THETA[None], "z": torch.tensor(0.0)}
    ),
    "max, min": Spelling(
        "h = Max(z, x) k = Min(h, t) y = Flatten(k)", "ReLU-theta Reshape", {"t": THETA, "z": torch.tensor(0.0)}
    ),
    "relu, sub, relu, sub": Spelling(
        "h = Relu(x) s = Sub(h, t) r = Relu(s) k = Sub(h, r) y = Flatten(k)", "ReLU-theta Reshape", {"t": THETA}
    ),
    "theta minus relu": Spelling(
        "h = Relu(x) s = Sub(t, h) r = Relu(s) k = Sub(t, r) y = Flatten(k)", "ReLU-theta Reshape", {"t": THETA}
    ),
    "keras relu, min, max": Spelling(
        "h = Relu(x) k = Min(h, t) m = Max(k, z) y = Flatten(m)",
        "ReLU-theta Reshape",
        {"t": torch.tensor(6.0), "z": torch.tensor(0.0)},
    ),
    "min of three": Spelling("h = Min(x, t, u) y = Flatten(h)", "Clamp Reshape", {"t": THETA, "u": torch.tensor(0.3)}),
    "leaky": Spelling("h = LeakyRelu<alpha=0.25>(x) y = Flatten(h)", "LeakyReLU Reshape"),
    "leaky, default": Spelling("h = LeakyRelu(x) y = Flatten(h)", "LeakyReLU Reshape"),
    "prelu": Spelling("h = PRelu(x, a) y = Flatten(h)", "LeakyReLU Reshape", {"a": noise(3, 1, 1)}),
    "prelu, number": Spelling("h = PRelu(x, a) y = Flatten(h)", "LeakyReLU Reshape", {"a": noise(1)}),
    "abs": Spelling("h = Abs(x) y = Flatten(h)", "Abs Reshape"),
    "sigmoid": Spelling("h = Sigmoid(x) k = Neg(h) y = Flatten(k)", "Sigmoid Affine Reshape"),
    "tanh": Spelling("h = Tanh(x) y = Flatten(h)", "Tanh Reshape"),
    "hard sigmoid": Spelling("h = HardSigmoid(x) y = Flatten(h)", "Affine ReLU-theta Reshape"),
}
HALVES = {"z": ints(0), "m": ints(6), "e": ints(12), "a": ints(1)}
PAIRS = {"z": ints(0), "o": ints(1), "e": ints(12), "a": ints(1), "t": ints(2), "u": ints(2), "r": ints(-1, 12)}
GROUPS = {"s": ints(0, 4, 3), "k": ints(3), "r": ints(0, 12)}
MAXMIN = {
    "halves, split": Spelling(
        "a, b = Split<axis=1>(x) p = Max(a, b) q = Min(a, b) y = Concat<axis=1>(p, q)", "MaxMin", image=ROW, opset=13
    ),
    "halves, slices": Spelling(
        "b = Slice(x, z, m, a) c = Slice(x, m, e, a) p = Max(b, c) q = Min(b, c) y = Concat<axis=1>(p, q)",
        "MaxMin",
        HALVES,
        ROW,
    ),
    "halves, clipped": Spelling(
        "a, b = Split<axis=1>(x) p = Max(a, b) q = Min(a, b) f = Min(p, h) g = Max(q, l) y = Concat<axis=1>(f, g)",
        "clipped MaxMin",
        {"h": noise(6), "l": noise(6, seed=1)},
        ROW,
        13,
    ),
    "pairs, slices": Spelling(
        "b = Slice(x, z, e, a, t) c = Slice(x, o, e, a, t) p = Max(b, c) q = Min(b, c) "
        "v = Unsqueeze(p, u) w = Unsqueeze(q, u) h = Concat<axis=2>(v, w) y = Reshape(h, r)",
        "MaxMin",
        PAIRS,
        ROW,
    ),
    "pairs, reductions": Spelling(
        "h = Reshape(x, s) p = ReduceMax<axes=[2]>(h) q = ReduceMin<axes=[2]>(h) k = Concat<axis=2>(p, q) "
        "y = Reshape(k, r)",
        "MaxMin",
        {"s": ints(0, 6, 2), "r": ints(0, 12)},
        ROW,
    ),
    "pairs, reductions with inputs": Spelling(
        "h = Reshape(x, s) p = ReduceMax(h, a) q = ReduceMin(h, a) k = Concat<axis=2>(p, q) y = Reshape(k, r)",
        "MaxMin",
        {"s": ints(0, 6, 2), "r": ints(0, 12), "a": ints(2)},
        ROW,
        18,
    ),
    "minimum first": Spelling(
        "a, b = Split<axis=1>(x) p = Max(a, b) q = Min(a, b) y = Concat<axis=1>(q, p)",
        "MaxMin Take",
        image=ROW,
        opset=13,
    ),
    "channels last": Spelling(
        "t = Transpose<perm=[0,2,3,1]>(x) a, b = Split<axis=-1>(t) p = Max(a, b) q = Min(a, b) "
        "c = Concat<axis=-1>(p, q) u = Transpose<perm=[0,3,1,2]>(c) y = Flatten(u)",
        "MaxMin Reshape",
        image="float[N,4,3,3] x",
        opset=13,
    ),
    "group sort": Spelling(
        "h = Reshape(x, s) v, i = TopK<axis=2, largest=0>(h, k) y = Reshape(v, r)", "GroupSort(3)", GROUPS, ROW
    ),
    "full sort": Spelling("v, i = TopK<axis=1>(x, k) y = Identity(v)", "GroupSort(12)", {"k": ints(12)}, ROW),
    "largest three": Spelling("v, i = TopK(x, k) y = Identity(v)", "GroupSort(12) Take", {"k": ints(3)}, ROW),
    "lone maximum": Spelling("t = Tanh(x) y = Max(x, t)", "Tanh Concat MaxMin Take", image=ROW),
}
HEADS = {
    "softmax": Spelling("h = Gemm(x, w) y = Softmax<axis=1>(h)", "Linear", {"w": DENSE}, ROW),
    "softmax, old": Spelling("h = Gemm(x, w) y = Softmax(h)", "Linear", {"w": DENSE}, ROW, 11),
    "log softmax": Spelling("h = Gemm(x, w) y = LogSoftmax(h)", "Linear", {"w": DENSE}, ROW),
    "sigmoid": Spelling("h = Gemm(x, w) y = Sigmoid(h)", "Linear", {"w": DENSE}, ROW),
    "argmax": Spelling(
        "h = Gemm(x, w) s = Softmax(h) y = ArgMax<axis=1, keepdims=0>(s)",
        "Linear",
        {"w": DENSE},
        ROW,
        output="int64[] y",
    ),
    "softmax over maps": Spelling(
        "h = GlobalAveragePool(x) s = Softmax<axis=1>(h) y = Flatten(s)", "Reduce", image=IMAGE
    ),
}

SPELLINGS = {
    f"{group}: {name}": spelling
    for group, members in (
        ("convolution", CONVOLUTIONS),
        ("dense", DENSE_LAYERS),
        ("affine", NORMALISATION),
        ("join", JOINS),
        ("shape", SHAPES),
        ("padding", PADDING),
        ("pool", POOLS),
        ("activation", ACTIVATIONS),
        ("maxmin", MAXMIN),
        ("head", HEADS),
    )
    for name, spelling in members.items()
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_recognised_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    spelling = SPELLINGS[name]
    given = {"image": spelling.image, "opset": spelling.opset, "output": spelling.output}
    network = imported(tmp_path, spelling.body, spelling.constants, **given)
    assert operators(network) == spelling.labels

    save(network, tmp_path / "again.onnx")
    again = load(tmp_path / "again.onnx")
    assert operators(again) == spelling.labels
    images = noise(2, *network.input.shape)
    assert torch.equal(network(images), again(images))
    assert again.notes[:-1] == ()
    assert (again.input_name, again.output_name) == (network.input_name, network.output_name)


def test_a_removed_head_is_said(tmp_path: Path) -> None:
    spelling = HEADS["softmax"]
    network = imported(tmp_path, spelling.body, spelling.constants, image=spelling.image)
    assert "Softmax removed" in network.notes[0]
    assert network.output_name == "h"


def test_numbers_a_file_leaves_out_are_the_runtimes_own(tmp_path: Path) -> None:
    """In float32, which matters where a variance almost cancels epsilon."""
    single = {name: float(torch.tensor(value)) for name, value in (("epsilon", 1e-5), ("alpha", 0.01))}
    body = "h = BatchNormalization(x, g, b, m, v) k = LeakyRelu(h) y = Flatten(k)"
    network = imported(tmp_path, body, STATISTICS)
    norm, leaky, _ = (n.op for n in network.operators())
    assert norm.eps == single["epsilon"]
    assert float(leaky.slope_below) == single["alpha"]
