import io
import zipfile

import numpy as np
import pytest
import torch

from llcert.data import load_dataset
from llcert.errors import InvalidInput


def load(write, **arrays):
    return load_dataset(str(write.put("data.npz", write.npz(**arrays))))


def with_header(header: str, content: bytes = b"", name: str = "x.npy") -> bytes:
    """An npz whose array says of itself what no writer would write."""
    text = header.encode("latin-1")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content)
        label = io.BytesIO()
        np.save(label, np.zeros(1, int))
        archive.writestr("y.npy", label.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
def test_floats_are_taken_as_they_are(write, dtype):
    values = np.array([[0.25, 1.0], [-0.5, 2.0]], dtype)
    data = load(write, x=values, y=np.array([1, 0]), eps=np.array(0.1))
    assert torch.equal(next(data.batches(range(2), 2)).images, torch.tensor([[0.25, 1.0], [-0.5, 2.0]]))
    assert data.image_shape == (2,)
    assert data.class_count == 2
    assert data.pixel_range == (-0.5, 2.0)
    assert data.split == "all"


def test_bytes_are_divided(write):
    values = write.bytes_of(3, 1, 4, 5)
    data = load(write, x=values, y=np.array([0, 2, 1], np.uint8))
    assert torch.equal(next(data.batches(range(3), 3)).images, torch.from_numpy(values).double() / 255)
    assert data.pixel_range == (values.min() / 255, values.max() / 255)


def test_column_order(write):
    values = np.asfortranarray(write.bytes_of(3, 4, 5))
    data = load(write, x=values, y=np.zeros(3, int))
    assert torch.equal(next(data.batches(range(3), 3)).images, torch.from_numpy(values.copy()).double() / 255)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archives_that_numpy_does_not_write_are_refused(write, method):
    """Their decoders make gigabytes of a few bytes before anyone can count; damaged ones raise what they like."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, zipfile.ZipFile(io.BytesIO(write.npz(x=X, y=Y))) as whole:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    with pytest.raises(InvalidInput, match=r"x\.npy is neither stored nor deflated"):
        load_dataset(str(write.put("data.npz", stream.getvalue())))


def test_another_shape(write):
    path = write.put("data.npz", write.npz(x=write.bytes_of(2, 12), y=np.zeros(2, int)))
    assert load_dataset(str(path), image_shape=(3, 2, 2)).image_shape == (3, 2, 2)
    with pytest.raises(InvalidInput, match="cannot be read as"):
        load_dataset(str(path), image_shape=(3, 2, 3))


X = np.zeros((2, 3))
Y = np.zeros(2, int)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y}, "no array 'x'"),
        ({"x": X}, "no array 'y'"),
        ({"x": X, "y": np.zeros(3, int)}, "2 images, y holds 3"),
        ({"x": np.zeros(2), "y": Y}, "at least one image"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "at least one image"),
        ({"x": np.zeros((2, 0)), "y": Y}, "at least one image"),
        ({"x": np.array([[0, np.nan]]), "y": Y[:1]}, "image 0 holds NaN"),
        ({"x": np.array([[0, 1], [0, -np.inf]]), "y": Y}, "image 1 holds NaN"),
        ({"x": np.array([[0.1]], np.longdouble), "y": Y[:1]}, "store uint8"),
        ({"x": np.zeros((2, 3), int), "y": Y}, "store uint8"),
        ({"x": np.zeros((2, 3), complex), "y": Y}, "store uint8"),
        ({"x": np.zeros((2, 3), bool), "y": Y}, "store uint8"),
        ({"x": np.array([["a", "b"]]), "y": Y[:1]}, "store uint8"),
        ({"x": np.array([[None, 1]], object), "y": Y[:1]}, "not a plain array"),
        ({"x": np.zeros((1,) * 9), "y": Y[:1]}, "not a plain array"),
        ({"x": X, "y": np.zeros(2)}, "whole numbers"),
        ({"x": X, "y": np.zeros((2, 10), int)}, "whole numbers"),
        ({"x": X, "y": np.array([0, -1])}, "classes from 0 on"),
        ({"x": X, "y": np.array([0, 1 << 63], np.uint64)}, "classes from 0 on"),
    ],
)
def test_contents_are_checked(write, arrays, message):
    with pytest.raises(InvalidInput, match=message):
        load(write, **arrays)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, -3)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 99999999999999)}\n",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}\n",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (1, 1)}\n",
        "{'descr': '(3,)<f4', 'fortran_order': False, 'shape': (1, 1)}\n",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999)}\n",
        "__import__('os').getcwd()\n",
        "(" * 5000 + "\n",
        "\n",
    ],
)
def test_headers_that_lie(write, header):
    with pytest.raises(InvalidInput):
        load_dataset(str(write.put("data.npz", with_header(header, bytes(4)))))


def test_a_bomb_is_refused_by_its_header(write):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 999999999)}\n"
    with pytest.raises(InvalidInput, match="store it as uint8"):
        load_dataset(str(write.put("data.npz", with_header(header))))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"x,y\n1,2\n"])
def test_no_npz(write, content):
    with pytest.raises(InvalidInput, match="not a readable npz"):
        load_dataset(str(write.put("data.npz", content)))
