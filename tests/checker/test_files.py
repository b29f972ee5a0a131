"""Hostile files: one clear line each, never a traceback, never an acceptance."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker import check, files
from llcert.checker.files import InvalidCertificate

from .cases import at, change, complaint, put, rehash

LINEAR, CLAMP, ADD, LEAKY, CONCAT, MAXMIN, LAST = 1, 2, 4, 5, 6, 7, 8


IMAGES = {
    "no image": lambda a: a.pop("x"),
    "image of another size": put("x", lambda v: v[:-1]),
    "no centre": lambda a: a.pop("2.centre"),
    "NaN in a box": put("2.lower", at(0, np.nan)),
    "infinite box": put("2.lower", at(0, -np.inf)),
    "negative weight": put("2.weights", at(0, -1.0)),
    "negative norm": put("2.norm.0", lambda v: -v),
    "infinite radius": put("2.radius", lambda v: np.inf),
    "NaN after": put("2.after", lambda v: np.nan),
    "radius of two": put("2.radius", lambda v: np.ones(2)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_evidence_that_is_none(name: str, folder: Path) -> None:
    change(folder, "images/0.npz", IMAGES[name])
    assert complaint(folder).startswith("image 0: images/0.npz: ")


@pytest.mark.parametrize(
    ("array", "to"),
    [("stop", -1), ("stop", 99), ("stop", 1), ("stop", 0.5), ("lam", -1.0), ("lam", np.nan), ("slopes", np.inf)],
)
def test_rows_that_are_none(array: str, to: float, folder: Path) -> None:
    def edit(arrays: dict[str, Any]) -> None:
        arrays.update({k: np.full_like(v, to, np.asarray(to).dtype) for k, v in arrays.items() if f".{array}" in k})
        if array != "stop":  # a row down to the input reaches every activation
            other = next(k for k in arrays if k.endswith("stop")).split(".")[0]
            arrays[f"{other}.stop"] = np.int64(0)
            for k, size in ((CLAMP, 4), (LEAKY, 4), (MAXMIN, 4)):
                arrays[f"{other}.{k}.slopes.0"] = np.full(size, to if array == "slopes" else 0.5)
                arrays[f"{other}.{k}.lam.0"] = np.asarray(to if array == "lam" else 0.1)

    change(folder, "images/0.npz", edit)
    assert complaint(folder).startswith("image 0: ")


@pytest.mark.parametrize("name", ["certificate.json", "graph.json", "model.npz", "images/0.npz"])
def test_a_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["graph.json", "model.npz", "images/0.npz"])
def test_a_file_that_is_a_folder(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["graph.json", "model.npz", "images/0.npz"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    rehash(folder)
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["model.npz", "images/0.npz"])
@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_in_a_file(name: str, seed: int, folder: Path) -> None:
    """Whatever comes of it, it is one line, or harmless."""
    rng = np.random.default_rng(seed)
    content = bytearray((folder / name).read_bytes())
    for i in rng.integers(len(content), size=8):
        content[i] = rng.integers(256)
    (folder / name).write_bytes(content)
    rehash(folder)
    with contextlib.suppress(InvalidCertificate):
        assert all(r.accepted or len(r.reason.splitlines()) == 1 for r in check(folder))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "nul",
        "[" * 100_000,
        '{"format": 1, "format": 1}',
        '{"format": 1, "eps": NaN}',
        "\xff",
        '{"a": ' + "9" * 9999 + "}",
    ],
)
def test_json_that_is_none(text: str, folder: Path) -> None:
    for name in ("graph.json", "certificate.json"):
        (folder / name).write_bytes(text.encode("latin-1"))
        if name == "graph.json":
            rehash(folder)
        assert complaint(folder).startswith(f"{name}: ")


ENTRIES = [
    {"index": 0, "label": -1, "file": "images/0.npz"},
    {"index": 0, "label": True, "file": "images/0.npz"},
    {"index": 0, "label": 0, "file": "../images/0.npz"},
    {"index": 0, "label": 0, "file": "images/../../secret.npz"},
    {"index": 0, "label": 0, "file": "images/0.npz\n"},
    {"index": 0, "label": 0, "file": 7},
    {"index": "0", "label": 0, "file": "images/0.npz"},
    {"label": 0, "file": "images/0.npz"},
    None,
]


@pytest.mark.parametrize("entry", ENTRIES, ids=repr)
def test_entries_that_are_none(entry: Any, folder: Path) -> None:
    change(folder, "certificate.json", lambda c: c.update(images=[entry]))
    assert complaint(folder).startswith("certificate.json: images: ")


@pytest.mark.parametrize(
    "change_", [{"semantics": "complex"}, {"files": []}, {"images": {}}, {"format": "1"}], ids=repr
)
def test_certificates_that_are_none(change_: dict[str, Any], folder: Path) -> None:
    path = folder / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change_))
    assert complaint(folder).startswith("certificate.json: ")


def archive(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return out.getvalue()


def header(text: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        header("1"),
        header("{}"),
        header("__import__('os')"),
        header(F8 % "(1000000000000,)"),
        header(F8 % "(-1,)", b"\0" * 8),
        header(F8 % "(2,)", b"\0" * 8),
        header(F8 % "(1,)", b"\0" * 16),
        header(F8 % "'a'"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
        header("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", b"\0" * 16),
        header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
    ],
)
def test_arrays_that_are_none(content: bytes) -> None:
    with pytest.raises(InvalidCertificate) as caught:
        files.parse_npz("a.npz", archive(x=content))
    assert str(caught.value).startswith("a.npz: ")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidCertificate):
        files.parse_npz("a.npz", (tmp_path / "a.npz").read_bytes())


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_are_none(method: int) -> None:
    """Their decoders raise what they like, and make gigabytes of a few bytes before anyone can count."""
    with pytest.raises(InvalidCertificate, match=r"a\.npz: an array is neither stored nor deflated"):
        files.parse_npz("a.npz", archive(method, x=array(np.zeros(100))))


def array(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, values)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_archives_are_refused_in_one_line_or_read(method: int) -> None:
    """Every single byte of an archive, and many at random, changed; checksums find what is not seen otherwise."""
    rng, refused = np.random.default_rng(method), 0
    whole = archive(method, x=array(rng.normal(size=6)), y=array(np.arange(3)))
    places = [np.array([k]) for k in range(len(whole))] + [rng.integers(0, len(whole), 20) for _ in range(200)]
    for where in places:
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[where] ^= rng.integers(1, 256, where.size, dtype=np.uint8)
        line = refusal(damaged.tobytes())
        assert line is None or (line.startswith("a.npz: ") and len(line.splitlines()) == 1)
        refused += line is not None
    assert refused > len(places) / 2


def refusal(content: bytes) -> str | None:
    try:
        files.parse_npz("a.npz", content)
    except InvalidCertificate as error:
        return str(error)
    return None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("name", ["certificate.json", "graph.json", "model.npz", "images/0.npz"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device", "link to itself"])
def test_what_is_no_file_is_not_waited_for(kind: str, name: str, folder: Path) -> None:
    path = folder / name
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device" | "link to a device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(path)
    line = complaint(folder)
    assert "not a regular file" in line or (kind == "link to itself" and "cannot be read" in line)


def test_a_link_to_a_file_is_read(folder: Path) -> None:
    (folder / "graph.json").rename(folder / "elsewhere.json")
    (folder / "graph.json").symlink_to(folder / "elsewhere.json")
    (result,) = check(folder)
    assert result.accepted


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    out = io.BytesIO()
    np.savez_compressed(out, x=np.zeros(10**4))
    assert len(out.getvalue()) < 1000
    with pytest.raises(InvalidCertificate, match="more than 1000 bytes"):
        files.parse_npz("a.npz", out.getvalue())


def test_an_archive_unpacks_to_no_more_than_deflation_saves() -> None:
    """A thousand names for the same bytes, and a size that is only said."""
    out = io.BytesIO()
    np.savez_compressed(out, x=np.zeros(10**7))
    assert files.parse_npz("a.npz", out.getvalue()).found["x"].size == 10**7
    with zipfile.ZipFile(out, "a") as bomb:
        bomb.infolist()[0].file_size = 2**33 - 1
        bomb.comment = b"written anew"
    with pytest.raises(InvalidCertificate, match="unpacks to more than"):
        files.parse_npz("a.npz", out.getvalue())
