"""The pickle reader: plain data of every age is read, everything else is refused and nothing is run."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from llcert.data.pickles import read_pickle
from llcert.errors import InvalidInput


class Touch:
    """A pickle that creates a file when it is loaded by a trusting reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def python_2(pixels: bytes, labels: list[int]) -> bytes:
    """A dictionary as numpy under Python 2 pickled it: byte strings written as text of Latin-1, protocol 2."""
    data = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06"
    dtype = b"cnumpy\ndtype\nq\x07U\x02u1q\x08K\x00K\x01\x87q\x09Rq\x0a"
    dtype += b"(K\x03U\x01|q\x0bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0cb"
    state = b"(K\x01K\x01M" + struct.pack("<H", len(pixels)) + b"\x86q\x0d" + dtype + b"\x89T"
    state += struct.pack("<i", len(pixels)) + pixels + b"q\x0etq\x0fb"
    listed = b"]q\x10(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x00(U\x04data" + data + state + b"U\x06labels" + listed + b"u."


def test_python_2_text_is_read_as_bytes():
    pixels = bytes(range(256)) * 2
    found = read_pickle(python_2(pixels, [3, 9]), "old")
    assert found["data"].dtype == np.uint8
    assert found["data"].tobytes() == pixels
    assert found["data"].shape == (1, 512)
    assert found["labels"] == [3, 9]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_protocol(protocol, order):
    content = {"data": np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order), "labels": np.arange(3)}
    found = read_pickle(pickle.dumps(content, protocol), "new")
    assert all((found[key] == content[key]).all() for key in content)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(tmp_path, protocol):
    target = tmp_path / "touched"
    content = pickle.dumps({"data": Touch(target)}, protocol)
    with pytest.raises(InvalidInput, match="refused, nothing was run"):
        read_pickle(content, "evil")
    assert not target.exists()
    pickle.loads(content)
    assert target.exists(), "the pickle would have run under the usual reader"


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy\nndarray\n(I9999999\ntR.",
        b"cnumpy\nndarray\n)\x81.",
        b"(inumpy\nndarray\n.",
        b"(ibuiltins\nlist\n.",
        b"cllcert.data.pickles\n_Array\n.",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        b"Pexternal\n.",
        b"\x82\x01.",
        b"\x97.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cnumpy\ndtype\n(S'>u1'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"}}s.",
        b"\x80\x09.",
        b"]q\x00r\xff\xff\xff\xff.",
        b"p9999999999999\n.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"(" * 50_000 + b"t" * 50_000 + b".",
        b"]" * 50_000 + b"a" * 49_999 + b".",
        b"",
        b".",
        b"N.",
        b"\x80\x02]q\x00.",
    ],
)
def test_hostile_programs_end_in_one_line(program):
    with pytest.raises(InvalidInput) as caught:
        read_pickle(program, "evil")
    assert "\n" not in str(caught.value)


def test_arrays_may_not_lie_about_their_size():
    whole = pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(3, 4)}, 2)
    with pytest.raises(InvalidInput, match="size is not that of its content"):
        read_pickle(whole.replace(b"K\x03K\x04", b"K\x03K\x05"), "evil")


def test_dates_and_objects_inside_arrays_are_refused():
    for dtype in ("O", "M8[s]", "f8"):
        with pytest.raises(InvalidInput, match="an array of type"):
            read_pickle(pickle.dumps({"data": np.zeros(3, dtype)}, 2), "evil")
