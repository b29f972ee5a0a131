"""Weights that lie beside an ONNX file: read only from inside its folder."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.nested import all_tensors


def load_external(model: onnx.ModelProto, folder: Path, source: str) -> None:
    """Brings every tensor that lies in another file into the model, in place.

    Raises UnsupportedModel where a file lies outside the folder, InvalidInput where it is missing or too short.
    """
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = _read(tensor, folder, f"{source}: weights {tensor.name!r}")
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _read(tensor: TensorProto, folder: Path, where: str) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    path = _inside(folder, entries.get("location", ""), where)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        size = path.stat().st_size
    except ValueError:
        raise UnsupportedModel(f"{where}: offset or length in the external file is not a number") from None
    except OSError as error:
        raise InvalidInput(f"{where}: {path.name} cannot be read ({error.strerror or error})") from None
    expected = _bytes(tensor, where)
    if offset < 0 or length not in (-1, expected) or offset + expected > size:
        raise InvalidInput(f"{where}: {path.name} does not hold {expected} bytes at offset {offset}")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(expected)


def _inside(folder: Path, location: str, where: str) -> Path:
    """The file a tensor names; refused where it, or what it links to, is outside the model's folder."""
    root = folder.resolve()
    if not location or "\0" in location or Path(location).is_absolute():
        raise UnsupportedModel(f"{where}: external file {location!r} is not a file beside the model")
    try:
        path = (root / location).resolve()
    except (OSError, RuntimeError):
        raise UnsupportedModel(f"{where}: external file {location!r} cannot be found") from None
    if not path.is_relative_to(root):
        raise UnsupportedModel(f"{where}: external file {location!r} lies outside the model's folder; refused")
    return path


def _bytes(tensor: TensorProto, where: str) -> int:
    """How many bytes a tensor of this type and shape takes."""
    if any(d < 0 for d in tensor.dims):
        raise UnsupportedModel(f"{where}: its shape {list(tensor.dims)} is negative")
    try:
        width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        raise UnsupportedModel(f"{where}: its type {tensor.data_type} is unknown") from None
    return width * math.prod(tensor.dims)
