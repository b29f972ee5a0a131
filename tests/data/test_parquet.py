import sys

import numpy as np
import pytest
import torch

import llcert.data.parquet
from llcert.data import load_dataset
from llcert.errors import InvalidInput

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def load(write, columns, types=None):
    path = write.root / "data.parquet"
    table = {name: pa.array(values, type=(types or {}).get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(table), path)
    return load_dataset(str(path))


def first(data):
    return next(data.batches(range(len(data)), 1000))


@pytest.mark.parametrize("image", ["image", "img"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_encoded_pictures(write, image, wrapped):
    pixels = write.bytes_of(3, 4, 5, 3)
    contents = [write.picture(each) for each in pixels]
    column = [{"bytes": content, "path": None} for content in contents] if wrapped else contents
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if wrapped else pa.binary()
    data = load(write, {image: column, "label": [2, 0, 1]}, {image: kind})
    assert torch.equal(first(data).images, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).double() / 255)
    assert first(data).labels.tolist() == [2, 0, 1]


def test_a_few_bytes_that_stand_for_many_values_are_refused(write, monkeypatch):
    """One value, repeated: the file holds how often."""
    columns = {"x": [[0.5] * 10_000] * 4, "y": [0] * 4}
    assert len(load(write, columns)) == 4
    assert (write.root / "data.parquet").stat().st_size < 4_000
    monkeypatch.setattr(llcert.data.parquet, "_VALUES", 39_999)
    with pytest.raises(InvalidInput, match="more than 39,999 values in x"):
        load(write, columns)


@pytest.mark.parametrize(("kind", "scale"), [(pa.uint8(), 255), (pa.float32(), 1), (pa.float64(), 1)])
def test_lists_of_pixels(write, kind, scale):
    values = write.bytes_of(300, 2, 3) // 2
    data = load(write, {"x": values.tolist(), "y": [0, 1, 2] * 100}, {"x": pa.list_(pa.list_(kind))})
    assert data.image_shape == (2, 3)
    assert torch.equal(first(data).images, torch.from_numpy(values).to(first(data).images.dtype) / scale)


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"text": ["a"], "label": [0]}, None, "no column named image"),
        ({"x": [[0.0]], "text": ["a"]}, None, "no column named label"),
        ({"x": [[0.0, 1.0], [0.0]], "y": [0, 1]}, None, "not a readable parquet"),
        ({"x": [[0.0, None]], "y": [0]}, None, "NaN"),
        ({"x": [[0.0, float("inf")]], "y": [0]}, None, "Inf"),
        ({"x": [[1, 2]], "y": [0]}, None, "images of type int64"),
        ({"x": ["a"], "y": [0]}, None, "images of type string"),
        ({"x": [0.5], "y": [0]}, None, r"\[images, \*shape\]"),
        ({"x": [[0.5]], "y": [None]}, None, "whole numbers"),
        ({"x": [[0.5]], "y": ["cat"]}, None, "whole numbers"),
        ({"x": [[0.5]], "y": [-1]}, None, "classes from 0 on"),
        ({"x": [None], "y": [0]}, pa.binary(), "image 0 is not stored"),
        ({"x": [b"GIF89a"], "y": [0]}, pa.binary(), "not a readable picture"),
        ({"x": [], "y": []}, pa.binary(), "holds no images"),
    ],
)
def test_contents_are_checked(write, columns, kind, message):
    with pytest.raises(InvalidInput, match=message):
        load(write, columns, {"x": kind} if kind else None)


def test_no_parquet(write):
    with pytest.raises(InvalidInput, match="not a readable parquet"):
        load_dataset(str(write.put("data.parquet", b"PAR1PAR1")))


def test_without_pyarrow(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InvalidInput, match="pip install pyarrow"):
        load_dataset(str(write.put("data.parquet", b"PAR1")))


def test_ordinary_numpy_is_not_needed_to_agree(write):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    data = load(write, {"pixels": list(values), "labels": [0, 0, 0]})
    assert torch.equal(first(data).images, torch.from_numpy(values))
