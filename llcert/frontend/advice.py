"""Why an ONNX or aten operator is refused, and what would help."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

_NORMALISES = (
    "normalises by statistics of the image itself, which is not globally Lipschitz; "
    "use BatchNormalization, or certify a network without it"
)
_JUMPS = "is a step function: a small change of the image can jump; remove it or certify the network before it"
_QUANTISES = (
    "rounds a value of the image, a step function; certify the network before quantisation "
    "(weights alone may be quantised)"
)
_RECURRENT = "is recurrent; llcert certifies feed-forward networks"
_FLOW = "is control flow that depends on the image; export with constant conditions, or unroll it"
_NONLINEAR = (
    "is a nonlinearity llcert has no rule for yet; replace it (Relu, Clip, LeakyRelu, PRelu, Abs, Sigmoid, Tanh, "
    "MaxMin, GroupSort and MaxPool are supported) or add it: docs/adding_an_operator.md"
)
_POSITIONS = "picks entries by values of the image; llcert needs known positions"
_POINTWISE = (
    "compares or selects by values of the image; spell MaxMin with Max and Min, ReLU with Relu, and leave "
    "Householder activations out"
)
_RESIZES = "resizes images, which llcert does not support; resize before the network"

_ADVICE: Final = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "LayerNormalization",
                "GroupNormalization",
                "InstanceNormalization",
                "RMSNormalization",
                "LpNormalization",
                "MeanVarianceNormalization",
                "LRN",
            ),
            _NORMALISES,
        ),
        **dict.fromkeys(("Sign", "ThresholdedRelu", "Floor", "Ceil", "Round", "Hardmax", "Binarizer"), _JUMPS),
        **dict.fromkeys(
            (
                "QuantizeLinear",
                "DequantizeLinear",
                "DynamicQuantizeLinear",
                "QLinearConv",
                "QLinearMatMul",
                "ConvInteger",
                "MatMulInteger",
            ),
            _QUANTISES,
        ),
        **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT),
        **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), _FLOW),
        **dict.fromkeys(
            (
                *("Elu", "Selu", "Celu", "Gelu", "Softplus", "Softsign", "Mish", "HardSwish", "Swish", "Erf", "Shrink"),
                *("Exp", "Log", "Sqrt", "Pow", "Reciprocal", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan"),
                *("Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "ReduceL1", "ReduceL2", "ReduceLogSum"),
                *("ReduceLogSumExp", "ReduceProd", "ReduceSumSquare", "LpPool", "GlobalLpPool", "Mod", "CumSum"),
            ),
            _NONLINEAR,
        ),
        **dict.fromkeys(("GatherElements", "GatherND", "NonZero", "ArgMin", "Unique", "Compress"), _POSITIONS),
        **dict.fromkeys(
            ("Where", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Not", "And", "Or", "Xor"),
            _POINTWISE,
        ),
        **dict.fromkeys(("Resize", "Upsample", "GridSample", "RoiAlign", "AffineGrid", "MaxRoiPool"), _RESIZES),
        "Attention": "is attention, a product of values of the image, which is not globally Lipschitz",
        "Einsum": "is spelled as Einsum; write it as MatMul with a constant",
    }
)


_ATEN: Final = MappingProxyType(
    {
        **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "linalg_vector_norm"), "LayerNormalization"),
        **dict.fromkeys(("group_norm", "native_group_norm", "instance_norm", "var", "var_mean", "std"), "LRN"),
        **dict.fromkeys(("sign", "floor", "ceil", "round", "trunc", "hardshrink"), "Sign"),
        **dict.fromkeys(("gelu", "silu", "elu", "celu", "selu", "softplus", "mish", "hardswish", "log_sigmoid"), "Elu"),
        **dict.fromkeys(("exp", "log", "sqrt", "rsqrt", "pow", "square", "reciprocal", "prod", "cumsum"), "Pow"),
        **dict.fromkeys(("sin", "cos", "erf", "norm", "logsumexp", "softsign"), "Pow"),
        **dict.fromkeys(("where", "lt", "le", "gt", "ge", "eq", "ne", "masked_fill"), "Where"),
        **dict.fromkeys(("gather", "index_put", "scatter", "argsort", "nonzero", "take_along_dim"), "GatherND"),
        **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "grid_sampler", "interpolate"), "Resize"),
        **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "LSTM"),
        **dict.fromkeys(("quantize_per_tensor", "fake_quantize_per_tensor_affine"), "QuantizeLinear"),
        "scaled_dot_product_attention": "Attention",
        "einsum": "Einsum",
    }
)
"""aten operators, and the ONNX operator whose advice fits them."""

_WRITES: Final = "writes into part of a tensor; build the value with torch.cat or torch.stack"


def advice(kind: str) -> str:
    """What is wrong with an operator llcert has no importer for, and what would help."""
    if kind in ("copy", "fill", "slice_scatter", "select_scatter"):
        return _WRITES
    unknown = "is not an operator llcert supports; add it (docs/adding_an_operator.md) or replace it"
    return _ADVICE.get(_ATEN.get(kind, kind), unknown)
