"""A reader of the CIFAR pickles that runs nothing but this file.

A pickle is a program. The ones of CIFAR need dictionaries, lists, strings, numbers and arrays of bytes; every other
thing such a program asks for is refused before it is looked up, and numpy's own constructors are replaced by the
stand-ins below, which check what they are given.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from llcert.data.dataset import Pixels
from llcert.data.reading import reading
from llcert.errors import InvalidInput

_TYPE_CODES = ("u1", "i8", "i4")


class _Refused(Exception):
    """The pickle asks for something that no file of images needs."""


class _Dtype:
    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if text.lstrip("|<") not in _TYPE_CODES:
            raise _Refused(f"an array of type {text[:20]!r}")
        self.dtype = np.dtype(text.lstrip("|<")).newbyteorder("<")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("|", "<", b"|", b"<"):
            raise _Refused("an array of another byte order")


class _Array:
    """An array being rebuilt; `values` exists once its state was set."""

    values: Pixels

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.values = _from_bytes(content, dtype, shape, "F" if fortran else "C")


def _from_bytes(content: object, dtype: object, shape: object, order: str) -> Pixels:
    if not (isinstance(content, bytes | bytearray) and isinstance(dtype, _Dtype) and isinstance(shape, tuple)):
        raise _Refused("an array of something else than numbers")
    if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 4:
        raise _Refused("an array of no valid shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise _Refused("an array whose size is not that of its content")
    return np.ndarray(shape, dtype.dtype, bytes(content), order="F" if order == "F" else "C")


def _frombuffer(content: object, dtype: object, shape: object, order: str) -> _Array:
    array = _Array()
    array.values = _from_bytes(content, dtype, shape, order)
    return array


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("text in another encoding")
    return text.encode("latin-1")


class _Ndarray:
    """The name `numpy.ndarray`, which array pickles pass about and never call."""

    def __new__(cls) -> _Ndarray:
        raise _Refused("a call of numpy.ndarray")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


# The reader written in Python: that in C allocates whatever a memo index asks for, so ten bytes could take all memory.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object outside the file")


def read_pickle(content: bytes, path: Path | str) -> dict[str, Any]:
    """The dictionary that a CIFAR python file holds, arrays as numpy arrays, keys as text.

    Raises InvalidInput where the pickle is damaged, no dictionary, or asks for anything but plain data.
    """
    try:
        with reading(path, "CIFAR python file"):
            loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except InvalidInput as error:
        if isinstance(error.__cause__, _Refused):
            raise InvalidInput(f"{path}: a pickle that asks for {error.__cause__}: refused, nothing was run") from None
        raise
    if not isinstance(loaded, dict):
        raise InvalidInput(f"{path}: the pickle holds no dictionary of images and labels")
    return {_text(key): _values(value) for key, value in loaded.items() if isinstance(key, str | bytes)}


def _text(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _values(value: object) -> object:
    return getattr(value, "values", None) if isinstance(value, _Array) else value
