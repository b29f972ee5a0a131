"""The operators. Each file holds all there is to know about its own: value, box, mask, slope, import and export.

What a bound needs of an operator, and what a proof believes of it: docs/adding_an_operator.md."""

from llcert.ops import elementwise, identity, shuffle
from llcert.ops.affine import Affine, BatchNorm
from llcert.ops.cast import Cast
from llcert.ops.clamp import Clamp, relu
from llcert.ops.conv import Conv, ConvTranspose
from llcert.ops.divide import Divide
from llcert.ops.head import Head
from llcert.ops.join import Add, Concat
from llcert.ops.leaky import Leaky
from llcert.ops.linear import Linear
from llcert.ops.maxmin import Extreme, GroupSort, MaxMin
from llcert.ops.maxpool import MaxPool
from llcert.ops.movement import Expand, Reshape, Transpose
from llcert.ops.pad import Pad
from llcert.ops.reduce import Reduce, SumPool
from llcert.ops.smooth import Sigmoid, Tanh
from llcert.ops.take import Take

__all__ = [
    "Add",
    "Affine",
    "BatchNorm",
    "Cast",
    "Clamp",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Divide",
    "Expand",
    "Extreme",
    "GroupSort",
    "Head",
    "Leaky",
    "Linear",
    "MaxMin",
    "MaxPool",
    "Pad",
    "Reduce",
    "Reshape",
    "Sigmoid",
    "SumPool",
    "Take",
    "Tanh",
    "Transpose",
    "elementwise",
    "identity",
    "relu",
    "shuffle",
]
