"""Constants of an ONNX graph, in the file's own types, also those that depend on how many images a batch has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.frontend.rule_inputs import Array
from llcert.ir import LARGEST
from llcert.ir.batch_size import BatchSize, Size
from llcert.ops.registry import ForEveryImage, Given, Sizes


@dataclass(frozen=True)
class SymbolicSizes:
    """Numbers some of which are multiples of the batch size. entries: of int and BatchSize. dtype: the file's own."""

    entries: Array
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Repeated:
    """A constant with a batch axis along which it is repeated. image: of one image, `[1, *shape]`."""

    image: Array


Constant = Array | SymbolicSizes | Repeated


def sizes_of(sizes: Sequence[Size], *, scalar: bool = False) -> Constant:
    """Sizes as ONNX has them: int64, in one dimension or none."""
    entries = np.empty(len(sizes), object)
    entries[:] = sizes
    return settled(entries.reshape(()) if scalar else entries, np.dtype(np.int64))


def settled(entries: Array, dtype: np.dtype[Any]) -> Constant:
    """The entries as an array of their own type, where none depends on the batch size any more.

    Raises OverflowError where the type cannot hold them.
    """
    if any(isinstance(e, BatchSize) for e in entries.ravel().tolist()):
        return SymbolicSizes(entries, dtype)
    return np.array(entries.tolist(), dtype).reshape(entries.shape)


def given(constant: Constant, where: str) -> Given:
    """A constant as operators are given it."""
    if isinstance(constant, SymbolicSizes):
        return Sizes(tuple(constant.entries.ravel().tolist()))
    return ForEveryImage(tensor(constant.image, where)) if isinstance(constant, Repeated) else tensor(constant, where)


def tensor(array: Array, where: str) -> Tensor:
    """A numpy array as a tensor that owns its memory; narrow floats become float32, unsigned integers int64."""
    array = np.asarray(array)
    if (array.dtype.kind == "f" and array.dtype.itemsize >= 4) or array.dtype.kind in "bi":
        kept = array
    elif array.dtype.kind == "u":
        kept = array.astype(np.int64)
    elif array.dtype == np.float16 or array.dtype.name.startswith(("bfloat", "float8")):
        kept = array.astype(np.float32)
    elif array.dtype.name in ("int4", "uint4", "int2", "uint2"):
        kept = array.astype(np.int64)
    else:
        raise UnsupportedModel(f"{where}: constants of type {array.dtype} are not numbers llcert can use")
    return torch.from_numpy(np.array(kept, order="C").reshape(array.shape)).clone()


def initialiser(proto: onnx.TensorProto, source: str) -> Array:
    """The value of an initialiser whose bytes are in the model; refuses NaN, and infinities in more than one entry."""
    where = f"{source}: initialiser {proto.name!r}"
    declared = math.prod(proto.dims)
    if any(d < 0 for d in proto.dims) or declared > 8 * LARGEST:
        raise UnsupportedModel(f"{where}: its shape {list(proto.dims)} is not one a file can hold")
    try:
        array = numpy_helper.to_array(proto)
    except Exception as error:  # broken bytes raise whatever numpy does
        raise UnsupportedModel(f"{where}: its data does not fit its type and shape ({line_of(error)})") from None
    value = tensor(array, where)
    if value.is_floating_point() and (bool(value.isnan().any()) or (value.numel() > 1 and bool(value.isinf().any()))):
        raise UnsupportedModel(f"{where}: holds NaN or infinite values; repair or retrain the model")
    return array


def line_of(error: Exception) -> str:
    """The first line of a foreign error message, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
