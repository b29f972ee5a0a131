"""`.parquet` files: encoded pictures or lists of pixels, and labels."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from llcert.data.dataset import ArrayImages, Dataset
from llcert.data.npz import as_images, checked_labels
from llcert.data.pictures import EncodedImages, common_shape, header
from llcert.data.reading import reading
from llcert.errors import InvalidInput

_IMAGE_COLUMNS = ("image", "img", "x", "pixels")
_LABEL_COLUMNS = ("label", "labels", "y", "fine_label")
_NUMBERS = {"uint8": "u1", "halffloat": "f2", "float": "f4", "double": "f8"}
_ROWS = 256
_LIMIT, _BATCH_LIMIT = 2 << 30, 1 << 28
_VALUES = 1 << 28


def load_parquet(path: Path) -> Dataset:
    """The file's images and labels.

    Images: a column of encoded pictures (bytes, or structs with a field `bytes`), or of nested lists of uint8 or
    floating point numbers. Labels: a column of whole numbers. Raises InvalidInput for anything else, and where pyarrow
    is missing.
    """
    parquet = _pyarrow()
    with reading(path, "parquet file"), parquet.ParquetFile(path) as file:
        images = _images(file, path)
        labels = np.array(_rows(file, _LABEL_COLUMNS, path))
    counted = checked_labels(labels, path)
    return Dataset(str(path), "all", images, counted, int(counted.max()) + 1, images.shape, note=str(path))


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InvalidInput("parquet files are read by pyarrow, which is not installed: pip install pyarrow") from None
    module: ModuleType = parquet
    return module


def _images(file: Any, path: Path) -> ArrayImages | EncodedImages:
    kind = file.schema_arrow.field(_column(file, _IMAGE_COLUMNS, path)).type
    if str(kind).startswith(("struct", "binary", "large_binary")):
        return _pictures(_rows(file, _IMAGE_COLUMNS, path), path)
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    if str(kind) not in _NUMBERS:
        raise InvalidInput(f"{path}: images of type {kind}; expected pictures, or lists of uint8 or floating point")
    return as_images(np.array(_rows(file, _IMAGE_COLUMNS, path), _NUMBERS[str(kind)]), path)


def _rows(file: Any, names: tuple[str, ...], path: Path) -> list[Any]:
    """The rows of one column, pixels as numpy arrays."""
    rows: list[Any] = []
    size, name = 0, _column(file, names, path)
    if _values(file, name) > _VALUES:
        raise InvalidInput(f"{path}: more than {_VALUES:,} values in {name}; split the file")
    for batch in file.iter_batches(batch_size=_ROWS, columns=[name], use_threads=False):
        size += batch.nbytes
        if size > _LIMIT or batch.nbytes > _BATCH_LIMIT:
            raise InvalidInput(f"{path}: more than {_LIMIT:,} bytes of images; split the file")
        found = batch.column(0).to_pylist()
        rows += [np.array(row) if isinstance(row, list) else row for row in found]
    return rows


def _values(file: Any, name: str) -> int:
    """How many values a column holds; a few bytes can repeat one as often as they like."""
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    chunks = (group.column(j) for group in groups for j in range(group.num_columns))
    return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == name)


def _column(file: Any, wanted: tuple[str, ...], path: Path) -> str:
    columns = file.schema_arrow.names
    for name in wanted:
        if columns.count(name) == 1:
            return name
    raise InvalidInput(f"{path}: no column named {', '.join(wanted)}; it has {', '.join(columns)[:200]}")


def _pictures(rows: list[Any], path: Path) -> EncodedImages:
    contents: dict[str, bytes] = {}
    for index, row in enumerate(rows):
        content = row.get("bytes") if isinstance(row, dict) else row
        if not isinstance(content, bytes):
            raise InvalidInput(f"{path}: image {index} is not stored in the file")
        contents[f"{path}, image {index}"] = content
    if not contents:
        raise InvalidInput(f"{path}: holds no images")
    shape = common_shape((name, header(content, name)) for name, content in contents.items())
    return EncodedImages(tuple(contents), lambda names: [contents[name] for name in names], shape)
